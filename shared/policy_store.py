"""Where policy versions and champions live: in a folder, or in S3.

`<store>/<fleet>/<version>/` holds an artefact (see `PolicyManifest`), complete or not there at
all. `<store>/<fleet>/champion.json` is the pointer to the version that serves, replaced in one
step. How files come to be so is `FolderFiles`' and `S3Files`' affair.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from shared.errors import BadInput, BadSetting, PolicyCorrupt, PolicyMissing
from shared.messages import Champion, PolicyManifest
from shared.policy_store_folder import FolderFiles, write_to_disk

MANIFEST = "policy.json"
LITERT_MODEL = "policy.tflite"
SAVED_MODEL = "tf-model/00000001"
CHECKPOINT = "checkpoint"
_CHAMPION = "champion.json"
_MOMENT = "%Y%m%dT%H%M%SZ"


class Files(Protocol):
    """What a store needs of a place; a folder is complete once its `mark` is there."""

    def folders(self) -> list[str]: ...

    def complete(self, within: str, mark: str) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def change(self, name: str, change: Callable[[bytes | None], bytes]) -> None: ...

    def drafting(self, name: str) -> AbstractContextManager[Path]: ...

    def add(self, draft: Path, name: str, mark: str) -> None: ...

    def fetched(self, name: str) -> AbstractContextManager[Path]: ...

    def remove(self, name: str, mark: str) -> None: ...

    def sweep(self, within: str, mark: str) -> None: ...


def new_version(now: datetime) -> str:
    """An id that sorts by time and that two trainers don't share: ``20261122T203301Z-1f3a9c``."""
    return f"{now:{_MOMENT}}-{uuid.uuid4().hex[:6]}"


def made_at(version: str) -> datetime | None:
    """When an id of `new_version` was made; None for a rule's name and any other."""
    moment, _, _ = version.partition("-")
    try:
        return datetime.strptime(moment, _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class PolicyStore:
    """Policies of every fleet in one place. In S3 every method may raise `StoreAway`."""

    files: Files

    @classmethod
    def at(cls, location: str | Path) -> "PolicyStore":
        """The store that a setting names; raises `BadSetting` for one that can't be used."""
        place = str(location)
        if place.startswith("s3://"):
            from shared.policy_store_s3 import S3Files

            return cls(S3Files.connect(place))
        if "://" in place:
            raise BadSetting(
                f"AUTOPILOT_POLICY_STORE={place} is no policy store: give the path of a folder, "
                "or s3://bucket/prefix"
            )
        return cls(FolderFiles(Path(place)))

    def fleets(self) -> list[str]:
        """Fleets that have a folder here."""
        return self.files.folders()

    def versions(self, fleet: str) -> list[str]:
        """Complete versions of a fleet, oldest first."""
        return self.files.complete(fleet, MANIFEST)

    def manifest(self, fleet: str, version: str) -> PolicyManifest:
        """Read a version's `policy.json`; raises `PolicyMissing` or `PolicyCorrupt`."""
        name = f"{fleet}/{version}/{MANIFEST}"
        try:
            content = self.files.read(name)
        except FileNotFoundError:
            raise PolicyMissing(f"fleet {fleet!r} has no policy version {version!r}") from None
        return _manifest_of(content, f"{self.files}/{name}")

    def read(self, manifest: PolicyManifest, name: str) -> bytes:
        """A file of an artefact, checked against its sha256; raises `PolicyCorrupt`."""
        version = f"{manifest.fleet}/{manifest.version}"
        return _checked(manifest, name, lambda: self.files.read(f"{version}/{name}"))

    @contextmanager
    def fetched(self, fleet: str, version: str, part: str = "") -> Iterator[Path]:
        """A version's folder, or a part of it, on this machine while the block runs; read only.

        Empty, or not there, where the version has no such part.
        """
        with self.files.fetched(f"{fleet}/{version}/{part}".rstrip("/")) as folder:
            yield folder

    @contextmanager
    def writing(self, fleet: str, version: str) -> Iterator[Path]:
        """A hidden folder to write an artefact in; what is left in it goes when the block ends."""
        with self.files.drafting(f"{fleet}/{version}") as folder:
            yield folder

    def retire(self, fleet: str, version: str) -> None:
        """Delete a version; raises `PolicyMissing`, or `BadInput` for the one that serves."""
        self.manifest(fleet, version)
        champion = self.champion(fleet)
        if champion is not None and champion.version == version:
            raise BadInput(f"{version} serves fleet {fleet!r}: promote another version first")
        self.files.remove(f"{fleet}/{version}", MANIFEST)

    def sweep(self, fleet: str) -> None:
        """Remove what killed writers of a fleet left; only while nobody else writes for it."""
        self.files.sweep(fleet, MANIFEST)

    def publish(self, draft: PolicyManifest, folder: Path) -> PolicyManifest:
        """Make a written folder a version: digests, manifest, one step. Not yet champion.

        Raises `FileExistsError` if the version is there already.
        """
        manifest = _sealed(draft, folder)
        self.files.add(folder, f"{draft.fleet}/{draft.version}", MANIFEST)
        return manifest

    def champion(self, fleet: str) -> Champion | None:
        """The version that serves, or None; raises `PolicyCorrupt` for a broken pointer."""
        try:
            content = self.files.read(f"{fleet}/{_CHAMPION}")
        except FileNotFoundError:
            return None
        return _champion_of(content, f"{self.files}/{fleet}/{_CHAMPION}")

    def set_champion(self, fleet: str, version: str, since: datetime) -> Champion:
        """Point at a version, in one step; raises `PolicyMissing` if it is not there.

        The version that served before becomes the runner-up.
        """
        self.manifest(fleet, version)
        pointers: list[Champion] = []

        def move(content: bytes | None) -> bytes:
            try:
                before = None if content is None else _champion_of(content, _CHAMPION)
            except PolicyCorrupt:
                before = None  # it is about to be mended
            runner_up = None
            if before is not None:
                runner_up = before.runner_up if before.version == version else before.version
            pointers.append(
                Champion(fleet=fleet, version=version, since=since, runner_up=runner_up)
            )
            return pointers[-1].model_dump_json().encode()

        self.files.change(f"{fleet}/{_CHAMPION}", move)
        return pointers[-1]


def read_manifest(folder: Path) -> PolicyManifest:
    """`policy.json` of the artefact in a folder; raises `PolicyMissing` or `PolicyCorrupt`."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise PolicyMissing(f"there is no policy in {folder}: it has no {MANIFEST}") from None
    return _manifest_of(content, str(path))


def read_checked(folder: Path, manifest: PolicyManifest, name: str) -> bytes:
    """A file of the artefact in a folder; raises `PolicyCorrupt` when its sha256 is another."""
    return _checked(manifest, name, (folder / name).read_bytes)


def seal(draft: PolicyManifest, folder: Path, destination: Path) -> PolicyManifest:
    """Add digests and manifest to a written folder, and give it its name in one step."""
    manifest = _sealed(draft, folder)
    folder.rename(destination)
    return manifest


def _checked(manifest: PolicyManifest, name: str, read: Callable[[], bytes]) -> bytes:
    expected = manifest.sha256.get(name)
    if expected is None:
        raise PolicyCorrupt(f"policy {manifest.version} does not list {name} in its manifest")
    try:
        content = read()
    except OSError as error:
        raise PolicyCorrupt(f"policy {manifest.version}: can't read {name}: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise PolicyCorrupt(
            f"policy {manifest.version}: {name} does not match its sha256; publish it again"
        )
    return content


def _sealed(draft: PolicyManifest, folder: Path) -> PolicyManifest:
    """Write the manifest, with the digest of every file, into an artefact's folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    manifest = draft.model_copy(update={"sha256": digests})
    write_to_disk(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
    return manifest


def _manifest_of(content: bytes, where: str) -> PolicyManifest:
    try:
        return PolicyManifest.model_validate_json(content)
    except ValidationError as error:
        raise PolicyCorrupt(
            f"{where} is not a policy manifest: {error.errors()[0]['msg']}"
        ) from error


def _champion_of(content: bytes, where: str) -> Champion:
    try:
        return Champion.model_validate_json(content)
    except ValidationError as error:
        raise PolicyCorrupt(
            f"{where} is not a champion pointer: {error.errors()[0]['msg']}"
        ) from error
