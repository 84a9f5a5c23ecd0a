"""The prediction service over HTTPS, as a process, while its certificate is renewed."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from shared.bus import DECISIONS, Bus
from shared.messages import utc_now
from tests.certificates import Authority, mount
from tests.conftest import a_decision
from tests.contract.conftest import START_SECONDS
from tests.eventually import eventually_async
from tests.processes import Process

CALLERS = 4
STATUS = {"replicas": 9, "readyReplicas": 9, "allocatedReplicas": 0}
REVIEW = {"request": {"uid": "u", "name": "default", "namespace": "games", "status": STATUS}}


@pytest.fixture
def authority() -> Authority:
    return Authority()


async def decide(redis_url: str) -> None:
    bus = Bus.connect(redis_url)
    await bus.publish(DECISIONS, "default", a_decision(decided_at=utc_now()))
    await bus.close()


def knows(url: str, trusting: ssl.SSLContext) -> bool:
    return httpx.get(f"{url}/prediction", verify=trusting).is_success


async def serial_number(port: int, trusting: ssl.SSLContext) -> int:
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    shown = writer.get_extra_info("peercert")
    writer.close()
    await writer.wait_closed()
    return int(shown["serialNumber"], 16)


async def renew(files: Path, authority: Authority, process: Process, port: int) -> None:
    """First half of it, which is noticed and changes nothing; then the whole."""
    trusting = authority.trusting()
    before = await serial_number(port, trusting)
    half = "certificate_not_renewed"
    noticed = process.written(2).count(half)
    mount(files, authority.issue()[0], authority.issue()[1])  # another's key
    await eventually_async(
        lambda: process.written(2).count(half), half, holds=lambda count: count == noticed + 1
    )
    assert await serial_number(port, trusting) == before
    mount(files, *authority.issue())
    await eventually_async(
        lambda: serial_number(port, trusting), "the new one", holds=lambda shown: shown != before
    )


@pytest.mark.parametrize("renewals", [1, pytest.param(3, marks=pytest.mark.slow)])
async def test_no_request_fails_while_the_certificate_is_renewed(
    start, authority, tmp_path, redis_url, renewals
):
    """Connections that stay, and one for each request; half a renewal is between the whole ones."""
    files = tmp_path / "mounted"
    files.mkdir()
    certificate, key = mount(files, *authority.issue())
    trusting = authority.trusting()
    process, url = await asyncio.to_thread(
        lambda: start(
            "prediction",
            trusting=trusting,
            tls_cert_file=certificate,
            tls_key_file=key,
            decision_ttl=3600,
        )
    )
    await decide(redis_url)
    port = httpx.URL(url).port
    answered: list[int] = []
    renewed = asyncio.Event()

    async def call(*, keep_alive: bool) -> None:
        limits = httpx.Limits(max_keepalive_connections=None if keep_alive else 0)
        async with httpx.AsyncClient(verify=trusting, limits=limits) as client:
            while not renewed.is_set():
                answered.append((await client.get(f"{url}/prediction")).status_code)
                asked = await client.post(f"{url}/agones/scale", json=REVIEW)
                answered.append(asked.status_code)

    async with asyncio.TaskGroup() as calling:
        await eventually_async(
            lambda: asyncio.to_thread(knows, url, trusting), "the decision is known"
        )
        for number in range(CALLERS):
            calling.create_task(call(keep_alive=number % 2 == 0))
        for _ in range(renewals):
            await renew(files, authority, process, port)
        renewed.set()
    assert set(answered) == {200}
    assert len(answered) > 10 * renewals
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.to_thread(process.communicate, timeout=START_SECONDS)
    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events.count("certificate_renewed") == renewals
    assert events.count("certificate_not_renewed") == renewals
    assert "Traceback" not in log


def test_a_probe_of_it_finds_it_well(start, authority, tmp_path):
    certificate, key = mount(tmp_path, *authority.issue())
    _, url = start(
        "prediction", trusting=authority.trusting(), tls_cert_file=certificate, tls_key_file=key
    )
    probe = Path(__file__).parents[2] / "shared/probe.py"
    found = subprocess.run(
        [sys.executable, "-IS", str(probe), f"{url}/readyz"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("given", ["nothing", "nonsense"])
def test_a_certificate_that_can_not_be_used_is_one_line_and_exit_2(start, tmp_path, given):
    if given == "nonsense":
        (tmp_path / "tls.crt").write_text(given)
        (tmp_path / "tls.key").write_text(given)
    process, _ = start(
        "prediction",
        wait=False,
        tls_cert_file=tmp_path / "tls.crt",
        tls_key_file=tmp_path / "tls.key",
    )
    _, log = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 2
    assert log.count("\n") == 1
    assert f"AUTOPILOT_TLS_CERT_FILE={tmp_path}{os.sep}tls.crt" in log
