"""Puts metrics to CloudWatch: with the time of the step, in order, retried until accepted.

Imported only where AWS is configured: boto3 and a client take 20 MB.
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
"""CloudWatch's limit. It also accepts at most 1 MB; 1,000 of our values take at most 0.3 MB."""
OLDEST = timedelta(days=14)
"""CloudWatch refuses timestamps further back."""
NEWEST = timedelta(hours=2)
"""CloudWatch refuses timestamps further ahead."""
ATTEMPTS = 1
"""Of boto3, within a call. `CloudWatch` retries itself, since it can be cancelled while it waits:
boto3's retries run in a thread that can't, and would put values that the next start puts again.
Adaptive mode keeps to CloudWatch's rate limit in any case."""
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
"""Error codes of values that CloudWatch will never accept; all other errors are retried."""

Measured = Transition | TrainingOutcome
if TYPE_CHECKING:
    Valued = tuple[Measured, list[MetricDatumTypeDef]]

_log = structlog.get_logger(__name__)


def connect(region: str) -> "CloudWatchClient":
    """A client, configured by AWS's standard variables; raises `BadSetting`."""
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
    """Puts the metrics of every step and training, retried until CloudWatch accepts them."""

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
        self._put = counter("steps", "Steps whose metrics CloudWatch has accepted")
        self._failed = counter("failed_calls", "Failed calls of CloudWatch, which are retried")
        self._refused = counter(
            "refused_steps", "Steps that CloudWatch will never accept: too old, or refused"
        )

    async def put(self, messages: Sequence[Measured]) -> None:
        """Put these metrics, oldest first; returns when CloudWatch has accepted or refused them.

        Raises, before anything is put, if the values of a message can't be computed.
        """
        now = self._clock()
        taken = [message for message in messages if now - OLDEST < message.at < now + NEWEST]
        valued = [(message, _values(message)) for message in taken]
        if len(taken) < len(messages):
            _log.warning("cloudwatch_takes_no_such_time", dropped=len(messages) - len(taken))
            self._refused.inc(_steps(messages) - _steps(taken))
        per_call = VALUES_PER_CALL // VALUES_PER_STEP
        for start in range(0, len(valued), per_call):
            await self._put_call(valued[start : start + per_call])

    async def _put_call(self, valued: "Sequence[Valued]") -> None:
        messages = [message for message, _ in valued]
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
        """Split a call that was refused because of one value, so that all others are accepted."""
        half = len(valued) // 2
        if half:
            await self._put_call(valued[:half])
            await self._put_call(valued[half:])
            return
        ((message, _),) = valued
        _log.error("cloudwatch_refused", fleet=message.fleet, reason=str(error))
        self._refused.inc(_steps([message]))


def _values(message: Measured) -> "list[MetricDatumTypeDef]":
    if isinstance(message, Transition):
        return [*step_values(message)]
    return [*training_values(message)]


def _steps(messages: Sequence[Measured]) -> int:
    """The number of steps among the messages."""
    return sum(isinstance(message, Transition) for message in messages)


def _refuses(error: BotoCoreError | ClientError) -> bool:
    if isinstance(error, ParamValidationError):
        return True  # by boto3's own validation, before any call
    return isinstance(error, ClientError) and error.response["Error"]["Code"] in REFUSALS
