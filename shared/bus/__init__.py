"""All access to Redis: the only package that imports redis. `keys` lists what is stored."""

from shared.bus.connection import wait_for_redis
from shared.bus.dead_letters import DeadLetter
from shared.bus.demands import DemandReceipt, Demands, IdempotencyKey
from shared.bus.entries import Unreadable, reason_of
from shared.bus.groups import Groups
from shared.bus.keys import (
    CHAMPIONS,
    DEAD_LETTERS_LENGTH,
    DECISIONS,
    DEMANDS,
    ENDED_TRAININGS,
    MODES,
    RECORDED_STEPS,
    TRAININGS,
    TRANSITIONS,
    TRANSITIONS_LENGTH,
    Feed,
    Log,
)
from shared.bus.leader_leases import LeaderLeases
from shared.bus.leases import Lease, Leases
from shared.bus.queued_training import QueuedTraining
from shared.bus.steps import Steps
from shared.bus.supplies import Supplies
from shared.bus.training import TRAINING_RETRIES, TrainingQueue, Trainings

__all__ = [
    "CHAMPIONS",
    "DEAD_LETTERS_LENGTH",
    "DECISIONS",
    "DEMANDS",
    "ENDED_TRAININGS",
    "MODES",
    "RECORDED_STEPS",
    "TRAININGS",
    "TRAINING_RETRIES",
    "TRANSITIONS",
    "TRANSITIONS_LENGTH",
    "Bus",
    "DeadLetter",
    "DemandReceipt",
    "Feed",
    "IdempotencyKey",
    "Lease",
    "Log",
    "QueuedTraining",
    "TrainingQueue",
    "Unreadable",
    "reason_of",
    "wait_for_redis",
]


class Bus(Demands, Leases, Steps, Supplies, Groups, Trainings, LeaderLeases):
    """The platform's Redis, for asyncio. Every method raises `BusAway` while it is unavailable."""
