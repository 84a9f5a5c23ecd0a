"""Every message that crosses a process: frozen, extra fields refused, times in UTC."""

from shared.messages.base import (
    MAX_SERVERS_EVER,
    Behaviour,
    Count,
    Fallback,
    Finite,
    FleetId,
    Label,
    Message,
    Utc,
    utc_now,
)
from shared.messages.demands import SUPPLY_SECONDS, Demand, DemandReport, FleetSupply, Supply
from shared.messages.fleets import Explanation, FleetMode
from shared.messages.policies import (
    Champion,
    CheckpointManifest,
    PolicyManifest,
    TrainingJob,
    TrainingOutcome,
)
from shared.messages.steps import Decision, FleetRecord, LeadTimes, RecordedStep, Transition

__all__ = [
    "MAX_SERVERS_EVER",
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
    "Message",
    "PolicyManifest",
    "RecordedStep",
    "Supply",
    "TrainingJob",
    "TrainingOutcome",
    "Transition",
    "Utc",
    "utc_now",
]
