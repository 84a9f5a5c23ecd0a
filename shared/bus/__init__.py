"""Redis, all of it: the only package that imports redis. `keys` names what it holds."""

from shared.bus.connection import wait_for_redis
from shared.bus.demands import DemandReceipt, Demands
from shared.bus.groups import Groups
from shared.bus.keys import (
    CHAMPIONS,
    DECISIONS,
    DEMANDS,
    ENDED_TRAININGS,
    MODES,
    TRAININGS,
    TRANSITIONS,
    TRANSITIONS_LENGTH,
    Feed,
    Log,
)
from shared.bus.leases import Lease, Leases
from shared.bus.queued_training import QueuedTraining
from shared.bus.steps import Steps
from shared.bus.supplies import Supplies
from shared.bus.training import TRAINING_RETRIES, TrainingQueue, Trainings
from shared.bus.turns import Turns

__all__ = [
    "CHAMPIONS",
    "DECISIONS",
    "DEMANDS",
    "ENDED_TRAININGS",
    "MODES",
    "TRAININGS",
    "TRAINING_RETRIES",
    "TRANSITIONS",
    "TRANSITIONS_LENGTH",
    "Bus",
    "DemandReceipt",
    "Feed",
    "Lease",
    "Log",
    "QueuedTraining",
    "TrainingQueue",
    "wait_for_redis",
]


class Bus(Demands, Leases, Steps, Supplies, Groups, Trainings, Turns):
    """The platform's Redis, for asyncio. Every method raises `BusAway` when it does not answer."""
