"""The notebook's metrics in CloudWatch.

Imported only where AWS is configured: boto3 and a client are 20 MB.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from prometheus_client import CollectorRegistry, Counter

from shared.errors import BadSetting
from shared.messages import Transition

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_cloudwatch.type_defs import MetricDatumTypeDef

NOTEBOOK_FLEET = "default"
"""Put without a dimension, as the notebook does; other fleets have the dimension `fleet`."""
VALUES_PER_CALL = 1_000
"""CloudWatch takes no more."""
VALUES_PER_STEP = 4
OLDEST = timedelta(days=14)
"""CloudWatch takes no time stamp further back."""
RETRY_SECONDS = 1.0
RETRY_SECONDS_MOST = 60.0
CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
REFUSALS = frozenset(
    {
        "InvalidFormat",
        "InvalidParameterCombination",
        "InvalidParameterValue",
        "MissingParameter",
        "MissingRequiredParameter",
        "ValidationError",
    }
)
"""Error codes of values that CloudWatch will never take; everything else is tried again."""

_log = structlog.get_logger(__name__)


def connect(region: str) -> "CloudWatchClient":
    """A client by AWS's standard variables; raises `BadSetting` when they can't be used."""
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 1},
    )
    try:
        return boto3.client("cloudwatch", region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise BadSetting(f"CloudWatch: {error}; check the AWS_... variables") from error


class CloudWatch:
    """Puts every step's metrics, with the time of the step, until CloudWatch has taken them."""

    def __init__(
        self,
        client: "CloudWatchClient",
        namespace: str,
        registry: CollectorRegistry,
        clock: Callable[[], datetime],
        retry_s: float = RETRY_SECONDS,
    ) -> None:
        def counter(name: str, documentation: str) -> Counter:
            return Counter(f"autopilot_cloudwatch_{name}", documentation, registry=registry)

        self._client = client
        self._namespace = namespace
        self._clock = clock
        self._retry_s = retry_s
        self._put = counter("steps", "Steps whose metrics CloudWatch has taken")
        self._failed = counter("failed_calls", "Calls that CloudWatch did not take; tried again")
        self._refused = counter("refused_steps", "Steps whose metrics CloudWatch will never take")

    async def put(self, transitions: Sequence[Transition]) -> None:
        """Put the metrics of these steps; returns when CloudWatch has taken or refused them."""
        oldest = self._clock() - OLDEST
        recent = [transition for transition in transitions if transition.at > oldest]
        self._refused.inc(len(transitions) - len(recent))
        steps_per_call = VALUES_PER_CALL // VALUES_PER_STEP
        for start in range(0, len(recent), steps_per_call):
            await self._put_call(recent[start : start + steps_per_call])

    async def _put_call(self, transitions: Sequence[Transition]) -> None:
        values = [value for transition in transitions for value in _values(transition)]
        wait_s, away = self._retry_s, False
        while True:
            try:
                await asyncio.to_thread(
                    self._client.put_metric_data, Namespace=self._namespace, MetricData=values
                )
            except (BotoCoreError, ClientError) as error:
                if _refuses(error):
                    _log.error("cloudwatch_refused", steps=len(transitions), reason=str(error))
                    self._refused.inc(len(transitions))
                    return
                self._failed.inc()
                if not away:
                    away = True
                    _log.warning("cloudwatch_is_away", reason=str(error))
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, RETRY_SECONDS_MOST)
            else:
                self._put.inc(len(transitions))
                if away:
                    _log.info("cloudwatch_is_back")
                return


def _values(step: Transition) -> "Iterator[MetricDatumTypeDef]":
    named = {
        "curr_demand": step.demand,
        # The notebook publishes the new target under this name; the true one stands beside it.
        "curr_alloc": step.target,
        "reward": step.reward,
        "allocation": step.allocation,
    }
    for name, value in named.items():
        metric: MetricDatumTypeDef = {
            "MetricName": name,
            "Timestamp": step.at,
            "Value": value,
            "Unit": "None",
        }
        if step.fleet != NOTEBOOK_FLEET:
            metric["Dimensions"] = [{"Name": "fleet", "Value": step.fleet}]
        yield metric


def _refuses(error: BotoCoreError | ClientError) -> bool:
    return isinstance(error, ClientError) and error.response["Error"]["Code"] in REFUSALS
