"""With tokens in a folder everything wants one, the ring goes on, and so does a rotation."""

import os
import shutil
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.conftest import EVERYTHING
from tests.e2e.containers import ROOT, Platform, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400, func_only=True),
]

FOLDER = ROOT / f"deploy/tokens/e2e-{os.getpid()}"
SERVICES = ("matchmaking", "prediction", "environment", "metrics", "play")


def write(role: str, *tokens: str) -> None:
    (FOLDER / role).write_text("".join(f"{token}\n" for token in tokens))


@pytest.fixture(scope="module")
def guarded(built: Platform) -> Iterator[Platform]:
    """A platform of its own with a token for each role."""
    FOLDER.mkdir(parents=True)
    write("report", "reports-1")
    write("read", "reads-1")
    settings = {"AUTOPILOT_TOKENS": str(FOLDER.relative_to(ROOT))}
    platform = Platform(f"{built.project}-tokens", settings)
    try:
        platform.compose(*EVERYTHING, "up", "--detach", *SERVICES, "aws", "prometheus")
        yield platform
    finally:
        platform.compose(*EVERYTHING, "down", "--volumes", "--timeout", "5")
        platform.http.close()
        shutil.rmtree(FOLDER)


def asked(platform: Platform, token: str | None) -> int:
    """The status of `GET /prediction` with a token."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"{platform.address('AUTOPILOT_PREDICTION_PORT')}/prediction"
    try:
        return platform.http.get(url, headers=headers).status_code
    except httpx.TransportError:
        return 0


def scraped(platform: Platform) -> bool | None:
    url = f"{platform.address('PROMETHEUS_PORT')}/api/v1/query"
    try:
        found = platform.http.get(url, params={"query": "sum(up)"}).json()["data"]["result"]
    except httpx.TransportError:
        return None
    return (bool(found) and float(found[0]["value"][1]) == 3) or None


def test_everybody_has_the_token_that_he_needs(guarded):
    """play reports, the environment reads, Prometheus scrapes."""
    until(lambda: asked(guarded, "reads-1") == 200 or None, "a prediction of what play reports")
    assert (asked(guarded, None), asked(guarded, "another")) == (401, 401)
    assert asked(guarded, "reports-1") == 403
    assert guarded.report(50.0).status_code == 401
    until(lambda: scraped(guarded), "all three targets up")
    address = guarded.address("AUTOPILOT_METRICS_PORT")
    assert guarded.http.get(f"{address}/metrics").status_code == 401
    assert guarded.http.get(f"{address}/readyz").status_code == 200


def test_tokens_are_renewed_without_a_restart(guarded):
    started = {each: guarded.container(each)["State"]["StartedAt"] for each in SERVICES}
    write("read", "reads-2", "reads-1")
    until(lambda: asked(guarded, "reads-2") == 200 or None, "the new token")
    assert asked(guarded, "reads-1") == 200, "and the old one meanwhile"
    guarded.compose("up", "--detach", "--no-deps", "access")
    until(
        lambda: guarded.execute("prometheus", "cat", "/run/autopilot/token") == "reads-2" or None,
        "Prometheus's new token",
    )
    write("read", "reads-2")
    until(lambda: asked(guarded, "reads-1") == 401 or None, "the old token is refused")
    seen = guarded.transitions()[-1]["step"]
    until(lambda: guarded.transitions()[-1]["step"] > seen + 5 or None, "the ring turning")
    until(lambda: scraped(guarded), "all three targets up")
    assert asked(guarded, "reads-2") == 200
    assert started == {each: guarded.container(each)["State"]["StartedAt"] for each in SERVICES}
