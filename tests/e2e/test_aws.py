"""CloudWatch and S3 as they are over HTTP: what was stepped is what they have."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from shared.messages import utc_now
from tests.e2e.containers import Platform, lines, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300, func_only=True)]

NAMESPACE = "rl-game-server-autopilot"
VALUES = {"curr_demand": "demand", "curr_alloc": "target", "reward": "reward"}
"""The notebook's metrics, and the fields of a transition that they are."""


def stepped(platform: Platform, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """Transitions due in [start, end)."""
    return [
        transition
        for transition in platform.transitions()
        if start <= datetime.fromisoformat(transition["at"]) < end
    ]


def put(cloudwatch, name: str, start: datetime, end: datetime) -> tuple[int, float]:
    """How many values CloudWatch has of a metric in [start, end), and their sum."""
    points = cloudwatch.get_metric_statistics(
        Namespace=NAMESPACE,
        MetricName=name,
        StartTime=start,
        EndTime=end,
        Period=3600,
        Statistics=["Sum", "SampleCount"],
    )["Datapoints"]
    return (
        int(sum(point["SampleCount"] for point in points)),
        sum(point["Sum"] for point in points),
    )


def equal_within(platform: Platform, cloudwatch, start: datetime, end: datetime) -> int:
    """Compare every metric with the transitions, once all are put; how many they are."""
    expected = stepped(platform, start, end)
    until(
        lambda: put(cloudwatch, "reward", start, end)[0] >= len(expected) or None,
        f"{len(expected)} steps in CloudWatch",
    )
    for name, field in VALUES.items():
        count, total = put(cloudwatch, name, start, end)
        assert count == len(expected), name
        assert total == pytest.approx(sum(step[field] for step in expected)), name
    return len(expected)


def whole_second() -> datetime:
    return utc_now().replace(microsecond=0)


def wait_steps(platform: Platform, steps: int) -> None:
    before = platform.transitions()[-1]["step"]
    until(lambda: platform.transitions()[-1]["step"] >= before + steps or None, f"{steps} steps")


def test_cloudwatch_has_what_was_stepped(platform, cloudwatch):
    start = whole_second()
    wait_steps(platform, 20)
    assert equal_within(platform, cloudwatch, start, whole_second()) >= 15


def test_what_was_stepped_while_aws_was_away_arrives_once_when_it_is_back(platform, cloudwatch):
    platform.compose("stop", "--timeout", "2", "aws")
    start = whole_second() + timedelta(seconds=1)
    wait_steps(platform, 15)
    platform.compose("restart", "--timeout", "5", "redis")
    wait_steps(platform, 10)
    platform.compose("start", "aws")
    wait_steps(platform, 5)
    assert equal_within(platform, cloudwatch, start, whole_second()) >= 25


@pytest.mark.parametrize("service", ["environment", "prediction", "trainer"])
def test_a_bucket_that_is_not_there_is_one_line_and_exit_code_2(platform, service):
    done = platform.refused(service, {"AUTOPILOT_POLICY_STORE": "s3://nobodys/policies"})
    assert done.returncode == 2
    (line,) = lines(done.stdout + done.stderr)
    assert "AUTOPILOT_POLICY_STORE=s3://nobodys/policies" in line


@pytest.fixture
def strict_aws(platform):
    """AWS that wants credentials it knows."""
    address = f"{platform.address('AWS_LOCAL_PORT')}/moto-api/reset-auth"
    platform.http.post(address, content=b"0")
    yield
    platform.http.post(address, content=b"inf")


def test_denied_credentials_are_one_line_and_exit_code_2(platform, strict_aws):
    done = platform.refused("environment", {"AWS_ACCESS_KEY_ID": "stolen"})
    assert done.returncode == 2
    (line,) = lines(done.stdout + done.stderr)
    assert "AUTOPILOT_POLICY_STORE=s3://autopilot/policies" in line
