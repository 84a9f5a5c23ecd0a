"""Every message between processes: frozen, times in UTC, readable by neighbouring releases."""

from shared.messages.base import (
    MAX_PLAYERS_EVER,
    MAX_SERVERS_EVER,
    MAX_TEXT,
    Behaviour,
    Count,
    Fallback,
    Finite,
    FleetId,
    Label,
    Message,
    ServerCount,
    Utc,
    of_any_release,
    utc_now,
)
from shared.messages.demands import SUPPLY_SECONDS, Demand, DemandReport, FleetSupply, Supply
from shared.messages.fleets import Explanation, FleetMode
from shared.messages.policies import (
    Champion,
    CheckpointManifest,
    LobbyRule,
    PolicyManifest,
    TrainingJob,
    TrainingOutcome,
)
from shared.messages.steps import Decision, FleetRecord, LeadTimes, RecordedStep, Transition

__all__ = [
    "MAX_PLAYERS_EVER",
    "MAX_SERVERS_EVER",
    "MAX_TEXT",
    "SUPPLY_SECONDS",
    "Behaviour",
    "Champion",
    "CheckpointManifest",
    "Count",
    "Decision",
    "Demand",
    "DemandReport",
    "Explanation",
    "Fallback",
    "Finite",
    "FleetId",
    "FleetMode",
    "FleetRecord",
    "FleetSupply",
    "Label",
    "LeadTimes",
    "LobbyRule",
    "Message",
    "PolicyManifest",
    "RecordedStep",
    "ServerCount",
    "Supply",
    "TrainingJob",
    "TrainingOutcome",
    "Transition",
    "Utc",
    "of_any_release",
    "utc_now",
]
