"""Metrics in CloudWatch: put with the time of the step, in order, until they are taken.

Imported only where AWS is configured: boto3 and a client are 20 MB.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from prometheus_client import CollectorRegistry, Counter

from services.metrics.cloudwatch_values import VALUES_PER_STEP, step_values, training_values
from shared.errors import BadSetting
from shared.messages import TrainingOutcome, Transition
from shared.resilience import Outage

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_cloudwatch.type_defs import MetricDatumTypeDef

VALUES_PER_CALL = 1_000
"""CloudWatch takes no more, and no more than 1 MB: of our values 1,000 are 0.3 MB at most."""
OLDEST = timedelta(days=14)
"""CloudWatch takes no time stamp further back."""
NEWEST = timedelta(hours=2)
"""Nor further ahead."""
ATTEMPTS = 1
"""Within a call. `CloudWatch` tries again, since it can be stopped while it waits: boto3's own
attempts go on in a thread that can't, and would put what the next start puts again. Adaptive mode
keeps the pace that CloudWatch allows, whoever tries again."""
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

Told = Transition | TrainingOutcome
if TYPE_CHECKING:
    Valued = tuple[Told, list[MetricDatumTypeDef]]

_log = structlog.get_logger(__name__)


def connect(region: str) -> "CloudWatchClient":
    """A client by AWS's standard variables; raises `BadSetting` when they can't be used."""
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "adaptive", "total_max_attempts": ATTEMPTS},
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
        self._outage = Outage("cloudwatch_is_away", "cloudwatch_is_back")
        self._put = counter("steps", "Steps whose metrics CloudWatch has taken")
        self._failed = counter("failed_calls", "Calls that CloudWatch did not take; tried again")
        self._refused = counter(
            "refused_steps", "Steps that CloudWatch will never take: too old, or refused"
        )

    async def put(self, messages: Sequence[Told]) -> None:
        """Put these metrics, oldest first; returns when CloudWatch has taken or refused them.

        Raises before anything is put, where a message has no values that can be told.
        """
        now = self._clock()
        taken = [told for told in messages if now - OLDEST < told.at < now + NEWEST]
        valued = [(told, _values(told)) for told in taken]
        if len(taken) < len(messages):
            _log.warning("cloudwatch_takes_no_such_time", dropped=len(messages) - len(taken))
            self._refused.inc(_steps(messages) - _steps(taken))
        per_call = VALUES_PER_CALL // VALUES_PER_STEP
        for start in range(0, len(valued), per_call):
            await self._put_call(valued[start : start + per_call])

    async def _put_call(self, valued: "Sequence[Valued]") -> None:
        messages = [told for told, _ in valued]
        values = [value for _, values in valued for value in values]
        wait_s = self._retry_s
        while True:
            try:
                await asyncio.to_thread(
                    self._client.put_metric_data, Namespace=self._namespace, MetricData=values
                )
            except (BotoCoreError, ClientError) as error:
                if _refuses(error):
                    await self._put_apart(valued, error)
                    return
                self._failed.inc()
                self._outage.begin(error)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, RETRY_SECONDS_MOST)
            else:
                self._put.inc(_steps(messages))
                self._outage.end()
                return

    async def _put_apart(self, valued: "Sequence[Valued]", error: Exception) -> None:
        """CloudWatch refuses a call for one value in it: all but that one get in."""
        half = len(valued) // 2
        if half:
            await self._put_call(valued[:half])
            await self._put_call(valued[half:])
            return
        ((told, _),) = valued
        _log.error("cloudwatch_refused", fleet=told.fleet, reason=str(error))
        self._refused.inc(_steps([told]))


def _values(told: Told) -> "list[MetricDatumTypeDef]":
    return [*(step_values(told) if isinstance(told, Transition) else training_values(told))]


def _steps(messages: Sequence[Told]) -> int:
    """Trainings are not counted."""
    return sum(isinstance(told, Transition) for told in messages)


def _refuses(error: BotoCoreError | ClientError) -> bool:
    if isinstance(error, ParamValidationError):
        return True  # boto3's own look at the values, before any call
    return isinstance(error, ClientError) and error.response["Error"]["Code"] in REFUSALS
