"""One platform for the whole run: built, started, and removed with everything it made."""

import os
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from tests.e2e.containers import Platform, missing

MUST_RUN = "E2E_MUST_RUN"
"""Set by `make e2e`: no engine is then a failure, and no reason to skip."""
EVERYTHING = ("--profile", "aws-local", "--profile", "monitoring")


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips where containers can't be run."""
    reason = missing()
    if reason is not None and os.environ.get(MUST_RUN):
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def built(engine: None) -> Iterator[Platform]:
    """The images, built."""
    platform = Platform(f"autopilot-e2e-{os.getpid()}")
    try:
        platform.compose("build")
        yield platform
    finally:
        platform.compose(*EVERYTHING, "down", "--volumes", "--remove-orphans", "--timeout", "5")
        platform.http.close()


@pytest.fixture(scope="session")
def platform(built: Platform, request: pytest.FixtureRequest) -> Platform:
    """The platform, started and answering."""
    started = time.monotonic()
    built.compose("up", "--detach")
    first = built.predicted(lambda _: True, "a first answer")
    print(f"\nfrom built images to the first answer: {time.monotonic() - started:.1f} s: {first}")
    return built


@pytest.fixture(scope="session")
def s3(platform: Platform) -> Iterator[Any]:
    """A client of the project's S3."""
    client = boto3.client("s3", **platform.aws)
    yield client
    client.close()


@pytest.fixture(scope="session")
def cloudwatch(platform: Platform) -> Iterator[Any]:
    """A client of the project's CloudWatch."""
    client = boto3.client("cloudwatch", **platform.aws)
    yield client
    client.close()
