"""The policies of a fleet in the store."""

from datetime import datetime

from pydantic import BaseModel, Field

from shared.errors import PolicyError
from shared.messages import Champion
from shared.policies.store import PolicyStore


class PolicySummary(BaseModel):
    """A version; for an unreadable one only the version and the error."""

    version: str
    created_at: datetime | None = None
    trained_on_steps: int | None = None
    history_len: int | None = Field(
        None, description="the HISTORY_LEN that it was trained for; it plans one step further"
    )
    scores: dict[str, float] = Field(default={}, description="costs in servers per step")
    error: str | None = None


class Catalogue(BaseModel):
    """Versions of a fleet, oldest first."""

    fleet: str
    champion: Champion | None = Field(description="the store's pointer")
    serving: str = Field(description="the policy that this process runs: a version, or `rule:...`")
    policies: list[PolicySummary]


def catalogue(store: PolicyStore, fleet: str, serving: str) -> Catalogue:
    """Read a fleet's versions from the store; blocking, so off the event loop."""
    try:
        champion = store.champion(fleet)
    except PolicyError:
        champion = None
    return Catalogue(
        fleet=fleet,
        champion=champion,
        serving=serving,
        policies=[_summary(store, fleet, version) for version in store.versions(fleet)],
    )


def _summary(store: PolicyStore, fleet: str, version: str) -> PolicySummary:
    try:
        manifest = store.manifest(fleet, version)
    except PolicyError as error:
        return PolicySummary(version=version, error=str(error))
    return PolicySummary(
        version=manifest.version,
        created_at=manifest.created_at,
        trained_on_steps=manifest.trained_on_steps,
        history_len=manifest.history_len,
        scores=manifest.scores,
    )
