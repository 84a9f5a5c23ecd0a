"""Every key, stream and queue in Redis.

| key | type | holds | bound |
|---|---|---|---|
| ``autopilot:demand`` | stream | every demand report | about `DEMAND_LENGTH` |
| ``autopilot:demand:newest`` | hash | fleet -> newest `Demand` by `observed_at` | fleets |
| ``autopilot:demand:newest-at`` | hash | fleet -> its `observed_at`, microseconds | fleets |
| ``autopilot:demand:seen:<fleet>:<key>`` | string | id and payload digest of the report with that idempotency key | ten minutes |
| ``autopilot:fleet:<fleet>`` | hash | ``step`` and ``state`` (`FleetRecord`) after the last commit | fleets |
| ``autopilot:workers`` | sorted set | environment worker -> when its presence expires, milliseconds | workers |
| ``autopilot:leases`` | hash | fleet -> `Lease`: fencing token and worker | fleets |
| ``autopilot:leases:token`` | integer | newest fencing token; also grows when a worker joins or leaves | 1 |
| ``autopilot:supply:<fleet>`` | string | newest `FleetSupply` from the fleet's controller | `SUPPLY_SECONDS` |
| ``autopilot:recorded:<fleet>`` | list | `RecordedStep`, oldest first, which the trainer replays | `RECORDED_STEPS` |
| ``autopilot:transitions`` | stream | `Transition`, by consumer group | about `TRANSITIONS_LENGTH` |
| ``autopilot:dead-letters`` | stream | entries that a consumer group could not process, and the reason | about `DEAD_LETTERS_LENGTH` |
| ``autopilot:decisions`` | hash | fleet -> newest `Decision` | fleets |
| ``autopilot:decisions:changes`` | stream | `Decision`, as they are made | about `CHANGES_LENGTH` |
| ``autopilot:explanations`` | hash | fleet -> `Explanation` of its newest decision | fleets |
| ``autopilot:modes`` | hash | fleet -> `FleetMode`, shadow or live, as an operator set it last | fleets |
| ``autopilot:modes:changes`` | stream | `FleetMode`, as operators set it | about `CHANGES_LENGTH` |
| ``autopilot:champions`` | hash | fleet -> `Champion`; the policy store is authoritative | fleets |
| ``autopilot:champions:changes`` | stream | `Champion`, as they are promoted | about `CHANGES_LENGTH` |
| ``autopilot:training:outcomes`` | hash | fleet -> newest `TrainingOutcome` | fleets |
| ``autopilot:training:changes`` | stream | `TrainingOutcome`, as jobs end | about `CHANGES_LENGTH` |
| ``autopilot:turn:<work>`` | string | leader lease: the process that does this work | the lease's seconds |
| ``rq:...`` | RQ's own | queue `training`, one `TrainingJob` a fleet at a time | fleets |
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.messages import (
    Champion,
    Decision,
    Demand,
    FleetMode,
    Message,
    TrainingOutcome,
    Transition,
)

DEMAND_LENGTH = 100_000
"""Reports stored for inspection; readers use the newest."""
TRANSITIONS_LENGTH = 200_000
"""A day of 100 fleets at 65 s is 133,000: consumers may be away that long. A transition takes about
820 bytes, so a day of them 110 MB and all that are kept 165 MB."""
RECORDED_STEPS = 20_000
"""Two weeks at 65 s; about 1.7 MB a fleet."""
CHANGES_LENGTH = 10_000
DEAD_LETTERS_LENGTH = 1_000
"""Entries stored for inspection; a metric counts all there were."""
DEAD_LETTER_BYTES = 4_096
"""Of an entry's content, five times a transition: all dead letters take 4 MB at most."""
IDEMPOTENCY_SECONDS = 600
"""Ten minutes: longer than a sender retries one report."""
TRAINING_QUEUE = "training"

SEEN = "autopilot:demand:seen:{fleet}:{key}"
NEWEST_AT = "autopilot:demand:newest-at"
FLEET = "autopilot:fleet:{fleet}"
WORKERS = "autopilot:workers"
LEASES = "autopilot:leases"
LEASE_TOKEN = "autopilot:leases:token"  # noqa: S105 - it fences, and is no secret
SUPPLY = "autopilot:supply:{fleet}"
RECORDED = "autopilot:recorded:{fleet}"
LEADER_LEASE = "autopilot:turn:{work}"
EXPLANATIONS = "autopilot:explanations"
TRANSITIONS_STREAM = "autopilot:transitions"
DEAD_LETTERS = "autopilot:dead-letters"

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Feed(Generic[M]):
    """A hash of the latest message by fleet, and the stream of all changes."""

    state: str
    changes: str
    message: type[M]


DEMANDS = Feed("autopilot:demand:newest", "autopilot:demand", Demand)
DECISIONS = Feed("autopilot:decisions", "autopilot:decisions:changes", Decision)
MODES = Feed("autopilot:modes", "autopilot:modes:changes", FleetMode)
CHAMPIONS = Feed("autopilot:champions", "autopilot:champions:changes", Champion)
TRAININGS = Feed("autopilot:training:outcomes", "autopilot:training:changes", TrainingOutcome)


@dataclass(frozen=True)
class Log(Generic[M]):
    """A stream that consumer groups read."""

    stream: str
    message: type[M]


TRANSITIONS = Log(TRANSITIONS_STREAM, Transition)
ENDED_TRAININGS = Log(TRAININGS.changes, TrainingOutcome)
