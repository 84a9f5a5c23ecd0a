"""Files that are written whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import BadInput


def check_can_write(path: Path | None, option: str) -> None:
    """Raise `BadInput` when a file can't be put there: before the work, not after it."""
    if path is None:
        return
    if path.is_dir():
        raise BadInput(f"{option} {path} is a folder: name a file")
    _check_parent(path, option)


def check_new_file(path: Path, option: str) -> None:
    """Raise `BadInput` unless a file can be put there without replacing anything."""
    check_can_write(path, option)
    if path.exists():
        raise BadInput(f"{option} {path} is there already: name a new file")


def check_new_folder(path: Path, option: str) -> None:
    """Raise `BadInput` unless a folder can be made there, or an empty one is there."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise BadInput(f"{option} {path} is there already: name a new folder")
    _check_parent(path, option)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a hidden name (same suffix), then give it its own."""
    partial = path.with_name(f".{uuid.uuid4().hex[:6]}.partial{path.suffix}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def hidden_folder(beside: Path) -> Iterator[Path]:
    """A hidden folder to write in; what is left of it goes when the block ends."""
    folder = beside.with_name(f".{beside.name}.{uuid.uuid4().hex[:6]}.partial")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_parent(path: Path, option: str) -> None:
    if not path.absolute().parent.is_dir():
        raise BadInput(f"{option} {path}: there is no folder {path.absolute().parent}: make it")
    if not os.access(path.absolute().parent, os.W_OK):
        raise BadInput(f"{option} {path}: {path.absolute().parent} can't be written to")
