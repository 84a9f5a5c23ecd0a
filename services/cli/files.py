"""Files that are written atomically."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import BadInput


def check_can_write(path: Path | None, option: str) -> None:
    """Raise `BadInput` if a file can't be written there: before the work, not after it."""
    if path is None:
        return
    if path.is_dir():
        raise BadInput(f"{option} {path} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise BadInput(f"{option} {path} is not a regular file: name one, or a new one")
    _check_parent(path.resolve(), option)


def check_new_file(path: Path, option: str) -> None:
    """Raise `BadInput` unless a new file can be written there."""
    check_can_write(path, option)
    if os.path.lexists(path):
        raise BadInput(f"{option} {path} is there already: name a new file")


def check_new_folder(path: Path, option: str) -> None:
    """Raise `BadInput` unless a folder can be created there, or an empty one exists."""
    if path.resolve() == Path.cwd():
        raise BadInput(f"{option} {path} is the folder that you are in: name a new one in it")
    empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if os.path.lexists(path) and not empty:
        raise BadInput(f"{option} {path} is there already: name a new folder")
    _check_parent(path, option)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a hidden name (same suffix), then rename it to `path`.

    A link is kept, and its target is written. Raises `BadInput` if that fails.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is not a regular file: name one, or a new one")
    partial = path.with_name(f".{uuid.uuid4().hex[:6]}.partial{path.suffix}")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise BadInput(
            f"can't write {path}: {error.strerror or error}: make room, or name another place"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def hidden_folder(beside: Path) -> Iterator[Path]:
    """A hidden folder to write in; unless renamed, it is removed with the block."""
    folder = beside.with_name(f".{beside.name}.{uuid.uuid4().hex[:6]}.partial")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_parent(path: Path, option: str) -> None:
    if not path.absolute().parent.is_dir():
        raise BadInput(f"{option} {path}: there is no folder {path.absolute().parent}: make it")
    try:  # for root, all folders seem to be writable
        tempfile.TemporaryFile(dir=path.absolute().parent).close()
    except OSError as error:
        raise BadInput(
            f"{option} {path}: {path.absolute().parent} can't be written to "
            f"({error.strerror}): name another place"
        ) from error
