"""Policies by folder or by version, for commands that replay them."""

from pathlib import Path

from shared.errors import BadInput, PolicyError, PolicyMissing
from shared.messages import PolicyManifest
from shared.policies import runtime as policies
from shared.policies.runtime import PRETRAINED, PRETRAINED_STORE, LearntPolicy
from shared.policies.store import LITERT_MODEL, PolicyStore
from shared.policies.store_seal import SigningKey
from shared.settings import Settings


def load_artefact(folder: Path, settings: Settings) -> LearntPolicy:
    """The policy in a folder; raises `BadInput` if it is missing, damaged, or not signed."""
    key = SigningKey.of(settings.signing_key_file)
    try:
        return policies.load_artefact(folder, key)
    except PolicyError as error:
        raise BadInput(f"--policy {folder}: {error}") from error


def find_artefact(name: str, fleet: str, settings: Settings) -> LearntPolicy:
    """The policy named by DIR or VERSION: a folder if it exists, else a version in the store."""
    if Path(name).exists():
        return load_artefact(Path(name), settings)
    try:
        store, manifest = find_version(name, fleet, settings)
        return LearntPolicy(store.read(manifest, LITERT_MODEL), manifest)
    except PolicyMissing:
        raise BadInput(
            f"--policy {name}: there is no such folder, and no such version of fleet "
            f"{fleet!r} in {settings.policy_store}"
        ) from None
    except PolicyError as error:
        raise BadInput(f"--policy {name}: {error}") from error


def find_version(
    version: str, fleet: str, settings: Settings
) -> tuple[PolicyStore, PolicyManifest]:
    """A fleet's version, or the general policy's, and where it is; raises `PolicyError`.

    The general policy is not signed: it comes with the package, and is code like the rest.
    """
    if version in PRETRAINED_STORE.versions(PRETRAINED):
        return PRETRAINED_STORE, PRETRAINED_STORE.manifest(PRETRAINED, version)
    store = PolicyStore.of(settings)
    return store, store.manifest(fleet, version)


def check_history_len(manifest: PolicyManifest, history_len: int | None) -> None:
    """Raise `BadInput` if a policy was trained for another lead time than the option's."""
    if history_len not in (None, manifest.history_len):
        raise BadInput(
            f"--history-len {history_len}: policy {manifest.version} was trained for "
            f"{manifest.history_len}; leave the option out"
        )
