"""The policy store: versions and champions of fleets, in a folder or in S3.

`<store>/<fleet>/<version>/` holds an artefact (see `PolicyManifest`), either complete or absent.
`<store>/<fleet>/champion.json` points to the version that serves, and is replaced atomically.
`FolderFiles` and `S3Files` implement that.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from shared.errors import BadInput, BadSetting, PolicyCorrupt, PolicyMissing
from shared.messages import Champion, PolicyManifest
from shared.policies.store_folder import FolderFiles
from shared.policies.store_names import folder_of, is_name
from shared.policies.store_seal import (
    SETTING,
    SigningKey,
    checked,
    checked_copy,
    content_of,
    opened,
    sealed,
    signed,
)

if TYPE_CHECKING:
    from shared.settings import Settings

MANIFEST = "policy.json"
LITERT_MODEL = "policy.tflite"
SAVED_MODEL = "tf-model/00000001"
CHECKPOINT = "checkpoint"
_CHAMPION = "champion.json"
_MOMENT = "%Y%m%dT%H%M%SZ"


class Files(Protocol):
    """The operations that a store needs; a folder is complete once the file `mark` is in it."""

    def folders(self) -> list[str]: ...

    def complete(self, within: str, mark: str) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def names(self, within: str) -> list[str]: ...

    def change(self, name: str, change: Callable[[bytes | None], bytes]) -> None: ...

    def drafting(self, name: str) -> AbstractContextManager[Path]: ...

    def add(self, draft: Path, name: str, mark: str) -> None: ...

    def remove(self, name: str, mark: str) -> None: ...

    def sweep(self, within: str, mark: str) -> None: ...


def new_version(now: datetime) -> str:
    """A unique version id that sorts by time: ``20261122T203301Z-1f3a9c``."""
    return f"{now:{_MOMENT}}-{uuid.uuid4().hex[:6]}"


def made_at(version: str) -> datetime | None:
    """When an id of `new_version` was made; None for any other version, such as a rule's."""
    moment, _, _ = version.partition("-")
    try:
        return datetime.strptime(moment, _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class PolicyStore:
    """The policies of all fleets. In S3 every method may raise `StoreAway`.

    With a key, everything that is published is signed with it, and nothing else is read.
    """

    files: Files
    key: SigningKey | None = None

    @classmethod
    def of(cls, settings: "Settings") -> "PolicyStore":
        """The store and the key of the settings; raises `BadSetting`."""
        return cls.at(settings.policy_store, SigningKey.of(settings.signing_key_file))

    @classmethod
    def at(cls, location: str | Path, key: SigningKey | None = None) -> "PolicyStore":
        """The store at a location; raises `BadSetting` for one that can't be used."""
        place = str(location)
        if place.startswith("s3://"):
            from shared.policies.store_s3 import S3Files

            return cls(S3Files.connect(place), key)
        if "://" in place:
            raise BadSetting(
                f"AUTOPILOT_POLICY_STORE={place} is not a policy store: give the path of a folder, "
                "or s3://bucket/prefix"
            )
        return cls(FolderFiles(Path(place)), key)

    def fleets(self) -> list[str]:
        """The fleets that have a folder in the store."""
        return [name for name in self.files.folders() if is_name(name)]

    def versions(self, fleet: str) -> list[str]:
        """Complete versions of a fleet, oldest first."""
        return self.files.complete(folder_of(fleet), MANIFEST)

    def manifest(self, fleet: str, version: str) -> PolicyManifest:
        """Read a version's `policy.json`; raises `PolicyMissing` or `PolicyCorrupt`."""
        return self._manifest(fleet, version, self.key)

    def read(self, manifest: PolicyManifest, name: str) -> bytes:
        """A file of an artefact, verified by its sha256; raises `PolicyCorrupt`."""
        folder = folder_of(manifest.fleet, manifest.version)
        return checked(manifest, _what(manifest), name, lambda: self.files.read(f"{folder}/{name}"))

    @contextmanager
    def fetched(self, fleet: str, version: str, part: str = "") -> Iterator[Path]:
        """A verified copy of a version's files, or of a part of them, for the block.

        Empty where the version has no such part. Raises `PolicyMissing` or `PolicyCorrupt`.
        """
        manifest = self.manifest(fleet, version)
        folder = folder_of(fleet, version)
        what = _what(manifest)
        with checked_copy(self.files, folder, manifest, MANIFEST, what, part) as copy:
            yield copy

    def sign(self, fleet: str, version: str) -> bool:
        """Sign a version with the key, after verifying every file. Returns whether it was needed.

        For a version that was published without a key, or with another: the caller must trust it.
        """
        if self.key is None:
            raise BadSetting(f"{SETTING} is not set: it names the file of the key to sign with")
        folder = folder_of(fleet, version)
        manifest = self._manifest(fleet, version, None)
        with checked_copy(self.files, folder, manifest, MANIFEST, _what(manifest)):
            now_signed = signed(manifest, self.key)
        if now_signed == manifest:
            return False

        def put(content: bytes | None) -> bytes:
            if content is None:
                raise PolicyMissing(f"{version} of fleet {fleet!r} was deleted meanwhile")
            return content_of(now_signed)

        self.files.change(f"{folder}/{MANIFEST}", put)
        return True

    @contextmanager
    def writing(self, fleet: str, version: str) -> Iterator[Path]:
        """A hidden folder to write an artefact in; removed with the block unless published."""
        with self.files.drafting(folder_of(fleet, version)) as folder:
            yield folder

    def retire(self, fleet: str, version: str) -> None:
        """Delete a version; raises `PolicyMissing`, or `BadInput` for the one that serves."""
        self._manifest(fleet, version, None)
        champion = self.champion(fleet)
        if champion is not None and champion.version == version:
            raise BadInput(f"{version} serves fleet {fleet!r}: promote another version first")
        self.files.remove(folder_of(fleet, version), MANIFEST)

    def sweep(self, fleet: str) -> None:
        """Remove what killed writers of a fleet left; only while no other process writes for it."""
        self.files.sweep(folder_of(fleet), MANIFEST)

    def publish(self, draft: PolicyManifest, folder: Path) -> PolicyManifest:
        """Make a written folder a version, with digests and signature. Does not promote it.

        Raises `FileExistsError` if the version exists.
        """
        manifest = sealed(draft, folder, MANIFEST, self.key)
        self.files.add(folder, folder_of(draft.fleet, draft.version), MANIFEST)
        return manifest

    def champion(self, fleet: str) -> Champion | None:
        """The champion, or None; raises `PolicyCorrupt` for an unreadable pointer."""
        try:
            content = self.files.read(f"{folder_of(fleet)}/{_CHAMPION}")
        except FileNotFoundError:
            return None
        return _champion_of(content, f"{self.files}/{fleet}/{_CHAMPION}")

    def set_champion(self, fleet: str, version: str, since: datetime) -> Champion:
        """Promote a version; raises `PolicyMissing` if there is none.

        The previous champion becomes the runner-up. Returns the new pointer.
        """
        self.manifest(fleet, version)
        pointers: list[Champion] = []

        def move(content: bytes | None) -> bytes:
            try:
                before = None if content is None else _champion_of(content, _CHAMPION)
            except PolicyCorrupt:
                before = None  # it is replaced now
            runner_up = None
            if before is not None:
                runner_up = before.runner_up if before.version == version else before.version
            pointers.append(
                Champion(fleet=fleet, version=version, since=since, runner_up=runner_up)
            )
            return pointers[-1].model_dump_json().encode()

        self.files.change(f"{folder_of(fleet)}/{_CHAMPION}", move)
        return pointers[-1]

    def _manifest(self, fleet: str, version: str, key: SigningKey | None) -> PolicyManifest:
        name = f"{folder_of(fleet, version)}/{MANIFEST}"
        try:
            content = self.files.read(name)
        except FileNotFoundError:
            raise PolicyMissing(f"fleet {fleet!r} has no policy version {version!r}") from None
        manifest = opened(PolicyManifest, content, f"{self.files}/{name}", key)
        if (manifest.fleet, manifest.version) != (fleet, version):
            raise PolicyCorrupt(
                f"policy {version} of fleet {fleet!r} has the manifest of {manifest.version} of "
                f"fleet {manifest.fleet!r}: publish it under its own name"
            )
        return manifest


def read_manifest(folder: Path, key: SigningKey | None = None) -> PolicyManifest:
    """`policy.json` of the artefact in a folder; raises `PolicyMissing` or `PolicyCorrupt`."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise PolicyMissing(f"there is no policy in {folder}: it has no {MANIFEST}") from None
    return opened(PolicyManifest, content, str(path), key)


def read_checked(folder: Path, manifest: PolicyManifest, name: str) -> bytes:
    """A file of the artefact in a folder; raises `PolicyCorrupt` if its sha256 differs."""
    return checked(manifest, _what(manifest), name, (folder / name).read_bytes)


def seal(
    draft: PolicyManifest, folder: Path, destination: Path, key: SigningKey | None = None
) -> PolicyManifest:
    """Add the manifest with digests to a written folder, and rename it to `destination`."""
    manifest = sealed(draft, folder, MANIFEST, key)
    folder.rename(destination)
    return manifest


def _what(manifest: PolicyManifest) -> str:
    return f"policy {manifest.version}"


def _champion_of(content: bytes, where: str) -> Champion:
    try:
        return Champion.model_validate_json(content)
    except ValidationError as error:
        raise PolicyCorrupt(
            f"{where} is not a champion pointer: {error.errors()[0]['msg']}"
        ) from error
