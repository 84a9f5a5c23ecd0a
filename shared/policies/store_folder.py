"""Files of a policy store in a folder."""

import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.errors import PolicyCorrupt

_PARTIAL = ".partial"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """Files under one folder; folders are added and files changed by an atomic rename.

    Raises `PolicyCorrupt` where a link leads out of that folder.
    """

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def folders(self) -> list[str]:
        """Names of the folders at the top."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir())

    def complete(self, within: str, mark: str) -> list[str]:
        """Names of the folders in the folder `within` that hold the file `mark`, in order."""
        return sorted(
            path.parent.name
            for path in (self.root / within).glob(f"*/{mark}")
            if not path.parent.name.startswith(".")
        )

    def read(self, name: str) -> bytes:
        """A file's content; raises `FileNotFoundError`."""
        try:
            return self._path(name).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from None

    def names(self, within: str) -> list[str]:
        """Relative paths of all files in a folder and below, without the locks of `change`.

        Raises `PolicyCorrupt` for a link, and for anything that is not a regular file.
        """
        top = self._path(within)
        found = []
        for folder, folders, files in os.walk(top):
            for name in (*folders, *files):
                path = Path(folder, name)
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode) or not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                    raise PolicyCorrupt(
                        f"{path} is a link, or not a regular file: put the file itself there"
                    )
                if stat.S_ISREG(mode) and not (name.startswith(".") and name.endswith(_LOCK)):
                    found.append(path.relative_to(top).as_posix())
        return sorted(found)

    def change(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a file by `change` of its content (None without one), atomically and synced.

        Concurrent changes are made one after the other.
        """
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f".{path.name}{_LOCK}")):
            try:
                before = path.read_bytes()
            except FileNotFoundError:
                before = None
            partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:6]}")
            write_to_disk(partial, change(before))
            partial.replace(path)

    @contextmanager
    def drafting(self, name: str) -> Iterator[Path]:
        """A hidden folder to write in; unless added, it is removed with the block."""
        folder = self._hidden(name)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, draft: Path, name: str, mark: str) -> None:  # noqa: ARG002 - one rename needs none
        """Rename a drafted folder to `name`; raises `FileExistsError` if that exists."""
        try:
            draft.rename(self._path(name))
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(f"{name} exists in {self}") from None
            raise

    def remove(self, name: str, mark: str) -> None:  # noqa: ARG002 - one rename needs none
        """Delete a folder; for readers it vanishes atomically."""
        hidden = self._hidden(f"{name}.removed")
        self._path(name).rename(hidden)
        shutil.rmtree(hidden)

    def sweep(self, within: str, mark: str) -> None:  # noqa: ARG002 - hidden is not complete
        """Remove what killed writers left in a folder; only while no other process writes there."""
        for folder in self._path(within).glob(f".*{_PARTIAL}"):
            shutil.rmtree(folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        path = self.root / name
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise PolicyCorrupt(
                f"{path} is behind a link that leads out of {self}: put the files themselves there"
            )
        return path

    def _hidden(self, name: str) -> Path:
        path = self._path(name)
        return path.with_name(f".{path.name}{_PARTIAL}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which ends with the process. The file stays, and is empty.

    It is opened for writing, since NFS locks nothing else.
    """
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_to_disk(path: Path, content: bytes) -> None:
    """Write a file and sync it to disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
