"""Where policy versions and champions live: a folder.

`<root>/<fleet>/<version>/` holds an artefact (see `PolicyManifest`), complete or not there at
all: it is written in a hidden folder beside it and renamed. `<root>/<fleet>/champion.json` is
the pointer to the version that serves, replaced in one step.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from shared.errors import BadInput, BadSetting, PolicyCorrupt, PolicyMissing
from shared.messages import Champion, PolicyManifest

MANIFEST = "policy.json"
LITERT_MODEL = "policy.tflite"
SAVED_MODEL = "tf-model/00000001"
CHECKPOINT = "checkpoint"
_CHAMPION = "champion.json"


def new_version(now: datetime) -> str:
    """An id that sorts by time and that two trainers don't share: ``20261122T203301Z-1f3a9c``."""
    return f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"


@dataclass(frozen=True, slots=True)
class PolicyStore:
    """Policies of every fleet under one folder."""

    root: Path

    @classmethod
    def at(cls, location: str) -> "PolicyStore":
        """The store that a setting names; raises `BadSetting` for what is not a folder."""
        if "://" in location:
            raise BadSetting(
                f"AUTOPILOT_POLICY_STORE={location} is not supported yet: give the path of a folder"
            )
        return cls(Path(location))

    def fleets(self) -> list[str]:
        """Fleets that have a folder here."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir())

    def versions(self, fleet: str) -> list[str]:
        """Complete versions of a fleet, oldest first."""
        folder = self.root / fleet
        if not folder.is_dir():
            return []
        return sorted(
            path.name
            for path in folder.iterdir()
            if not path.name.startswith(".") and (path / MANIFEST).is_file()
        )

    def path(self, fleet: str, version: str) -> Path:
        """Folder of a version, whether or not it is there."""
        return self.root / fleet / version

    def manifest(self, fleet: str, version: str) -> PolicyManifest:
        """Read a version's `policy.json`; raises `PolicyMissing` or `PolicyCorrupt`."""
        try:
            return read_manifest(self.path(fleet, version))
        except PolicyMissing:
            raise PolicyMissing(f"fleet {fleet!r} has no policy version {version!r}") from None

    def read(self, manifest: PolicyManifest, name: str) -> bytes:
        """A file of an artefact, checked against its sha256; raises `PolicyCorrupt`."""
        return read_checked(self.path(manifest.fleet, manifest.version), manifest, name)

    @contextmanager
    def writing(self, fleet: str, version: str) -> Iterator[Path]:
        """A hidden folder to write an artefact in; what is left in it goes when the block ends."""
        folder = self.root / fleet / f".{version}.partial"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def retire(self, fleet: str, version: str) -> None:
        """Delete a version; raises `PolicyMissing`, or `BadInput` for the one that serves."""
        self.manifest(fleet, version)
        champion = self.champion(fleet)
        if champion is not None and champion.version == version:
            raise BadInput(f"{version} serves fleet {fleet!r}: promote another version first")
        shutil.rmtree(self.path(fleet, version))

    def sweep(self, fleet: str) -> None:
        """Remove what killed writers of a fleet left; only while nobody else writes for it."""
        for folder in (self.root / fleet).glob(".*.partial"):
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, draft: PolicyManifest, folder: Path) -> PolicyManifest:
        """Make a written folder a version: digests, manifest, one rename. Not yet champion."""
        return seal(draft, folder, self.path(draft.fleet, draft.version))

    def champion(self, fleet: str) -> Champion | None:
        """The version that serves, or None; raises `PolicyCorrupt` for a broken pointer."""
        path = self.root / fleet / _CHAMPION
        try:
            return Champion.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise PolicyCorrupt(
                f"{path} is not a champion pointer: {error.errors()[0]['msg']}"
            ) from error

    def set_champion(self, fleet: str, version: str, since: datetime) -> Champion:
        """Point at a version, in one step; raises `PolicyMissing` if it is not there.

        The version that served before becomes the runner-up.
        """
        self.manifest(fleet, version)
        try:
            before = self.champion(fleet)
        except PolicyCorrupt:
            before = None  # it is about to be mended
        runner_up = None
        if before is not None:
            runner_up = before.runner_up if before.version == version else before.version
        champion = Champion(fleet=fleet, version=version, since=since, runner_up=runner_up)
        _write(self.root / fleet / _CHAMPION, champion.model_dump_json())
        return champion


def read_manifest(folder: Path) -> PolicyManifest:
    """`policy.json` of the artefact in a folder; raises `PolicyMissing` or `PolicyCorrupt`."""
    path = folder / MANIFEST
    try:
        return PolicyManifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise PolicyMissing(f"there is no policy in {folder}: it has no {MANIFEST}") from None
    except ValidationError as error:
        raise PolicyCorrupt(
            f"{path} is not a policy manifest: {error.errors()[0]['msg']}"
        ) from error


def read_checked(folder: Path, manifest: PolicyManifest, name: str) -> bytes:
    """A file of the artefact in a folder; raises `PolicyCorrupt` when its sha256 is another."""
    expected = manifest.sha256.get(name)
    if expected is None:
        raise PolicyCorrupt(f"policy {manifest.version} does not list {name} in its manifest")
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise PolicyCorrupt(f"policy {manifest.version}: can't read {name}: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise PolicyCorrupt(
            f"policy {manifest.version}: {name} does not match its sha256; publish it again"
        )
    return content


def seal(draft: PolicyManifest, folder: Path, destination: Path) -> PolicyManifest:
    """Add digests and manifest to a written folder, and give it its name in one step."""
    manifest = draft.model_copy(update={"sha256": _digests(folder)})
    _write(folder / MANIFEST, manifest.model_dump_json(indent=2))
    folder.rename(destination)
    return manifest


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, and have it on disk before its name."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:6]}")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
