"""A policy version that nobody could serve, for what only stores it."""

from datetime import UTC, datetime

from shared.core.parameters import FleetParameters
from shared.messages import PolicyManifest
from shared.policies.store import LITERT_MODEL

NOW = datetime(2026, 11, 22, 20, 33, 1, tzinfo=UTC)
PUBLISHED = ["v1/policy.json", "v1/policy.tflite", "v1/tf-model/saved_model.pb"]


def draft(version="v1", fleet="eu"):
    return PolicyManifest.draft(FleetParameters(), version=version, fleet=fleet, created_at=NOW)


def publish(store, version="v1", fleet="eu", model=b"a model"):
    with store.writing(fleet, version) as folder:
        (folder / LITERT_MODEL).write_bytes(model)
        (folder / "tf-model").mkdir()
        (folder / "tf-model" / "saved_model.pb").write_bytes(b"a graph")
        return store.publish(draft(version, fleet), folder)
