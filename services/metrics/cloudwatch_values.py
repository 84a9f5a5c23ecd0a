"""The CloudWatch metrics of a step and of a training; pure functions.

The notebook's metrics have no dimension, as in the notebook: with several fleets they aggregate
all of them. Metrics of a single fleet have other names, and the dimension `Fleet`.
"""

import math
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from shared.core.recommendation import TARGET_DECIMALS
from shared.messages import TrainingOutcome, Transition
from shared.policies.store import made_at

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import MetricDatumTypeDef

FLEET = "Fleet"
"""The dimension."""
VALUES_PER_STEP = 17
"""Most values of one step."""


def step_values(step: Transition) -> "Iterator[MetricDatumTypeDef]":
    """The metrics of one step, with the time of the step."""
    for name, value in _notebook(step).items():
        yield _value(name, value, step.at)
    for name, value in _ours(step).items():
        yield _value(name, value, step.at, step.fleet)


def training_values(training: TrainingOutcome) -> "Iterator[MetricDatumTypeDef]":
    """The metrics of one training job, with the time of its end."""
    failed = float(training.outcome == "failed")
    yield _value("training_seconds", training.seconds, training.at, training.fleet)
    yield _value("failed_trainings", failed, training.at, training.fleet)


def _notebook(step: Transition) -> dict[str, float]:
    told = max(step.target, step.demand)
    values = {
        "curr_demand": step.demand,
        # The notebook publishes the new target under this name; the true one is `allocation`.
        "curr_alloc": step.target,
        "reward": step.reward,
        # The notebook's server raises a target below the demand, and flags it as false-positive.
        "curr_alloc_norm": told,
        # The notebook's client: the number told to a lobby or an autoscaler, in whole servers.
        "num_of_gs": float(math.ceil(round(told, TARGET_DECIMALS))),
    }
    return values | ({"false-positive": 1.0} if step.target < step.demand else {})


def _ours(step: Transition) -> dict[str, float]:
    surplus = 0.0 if step.stale else step.allocation - step.reported_demand
    values = {
        "demand": step.demand,
        "target": step.target,
        "allocation": step.allocation,
        "unserved_servers": max(-surplus, 0.0),
        "idle_servers": max(surplus, 0.0),
        "stale_steps": float(step.stale),
    }
    if step.supply is not None:
        counts = {"allocated_servers": step.supply.allocated, "ready_servers": step.supply.ready}
        values |= {name: float(count) for name, count in counts.items() if count is not None}
    if step.lead_times is not None:
        values["lead_time_seconds"] = step.lead_times.measured_s
        values["assumed_lead_time_seconds"] = step.lead_times.assumed_s
    made = made_at(step.policy_version)
    # A rule was not trained, so it has no age.
    return values | ({} if made is None else {"policy_age_seconds": _seconds(made, step.at)})


def _seconds(since: datetime, until: datetime) -> float:
    return max((until - since).total_seconds(), 0.0)


def _value(name: str, value: float, at: datetime, fleet: str | None = None) -> "MetricDatumTypeDef":
    metric: MetricDatumTypeDef = {
        "MetricName": name,
        "Timestamp": at,
        "Value": value,
        "Unit": "Seconds" if name.endswith("_seconds") else "None",
    }
    if fleet is not None:
        metric["Dimensions"] = [{"Name": FLEET, "Value": fleet}]
    return metric
