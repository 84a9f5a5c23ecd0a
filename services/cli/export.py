"""`autopilot policies export`: an artefact from the store, as it is or in SageMaker's format."""

import tarfile
from datetime import datetime
from io import BytesIO
from pathlib import Path

from rich.console import Console

from services.cli.files import check_new_file, check_new_folder, hidden_folder, write_whole
from services.cli.output import print_text
from shared.errors import PolicyMissing
from shared.messages import PolicyManifest
from shared.policies.store import CHECKPOINT, LITERT_MODEL, MANIFEST, SAVED_MODEL, PolicyStore
from shared.policies.store_seal import content_of, signed
from shared.settings import Settings

OPTION = "--out"


def export_policy(
    settings: Settings,
    fleet: str,
    version: str | None,
    out: Path,
    console: Console,
    *,
    sagemaker: bool,
) -> None:
    """Write a version (None: the champion) to `out`, whole or not at all, and never over anything.

    A new folder with the artefact; for SageMaker a `model.tar.gz` with the files for serving. Every
    file is checked against its sha256.
    """
    (check_new_file if sagemaker else check_new_folder)(out, OPTION)
    store = PolicyStore.of(settings)
    if version is None:
        champion = store.champion(fleet)
        if champion is None:
            raise PolicyMissing(f"fleet {fleet!r} has no champion: name a version")
        version = champion.version
    manifest = store.manifest(fleet, version)
    if sagemaker:
        write_whole(out, lambda path: _write_model(store, manifest, path))
    else:
        with hidden_folder(out) as folder:
            _write_artefact(store, manifest, folder)
            folder.rename(out)
    print_text(console, f"{version} of fleet {fleet} is in {out}")


def _write_artefact(store: PolicyStore, manifest: PolicyManifest, folder: Path) -> None:
    for name in manifest.sha256:
        content = store.read(manifest, name)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / MANIFEST).write_bytes(content_of(manifest))


def _write_model(store: PolicyStore, manifest: PolicyManifest, path: Path) -> None:
    """The artefact without its checkpoint, for either of SageMaker's containers.

    Ours reads `policy.json` and `policy.tflite`; TensorFlow's looks for
    `<any name>/<number>/saved_model.pb`, so that the model's name there is `tf-model`.
    """
    names = [name for name in manifest.sha256 if not name.startswith(f"{CHECKPOINT}/")]
    for needed in (LITERT_MODEL, f"{SAVED_MODEL}/saved_model.pb"):
        if needed not in names:
            raise PolicyMissing(
                f"policy {manifest.version} has no {needed}: export another version"
            )
    digests = {name: manifest.sha256[name] for name in names}
    served = signed(manifest.model_copy(update={"sha256": digests}), store.key)
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            _add(archive, name, store.read(manifest, name), manifest.created_at)
        _add(archive, MANIFEST, content_of(served), manifest.created_at)


def _add(archive: tarfile.TarFile, name: str, content: bytes, made: datetime) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mtime = int(made.timestamp())
    archive.addfile(member, BytesIO(content))
