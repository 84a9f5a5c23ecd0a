"""A Redis with a password: who has none or a wrong one is told so in one line, without it."""

import asyncio
import json
import os
import stat
import subprocess

import httpx
import psutil
import pytest
import redis
from redis.exceptions import AuthenticationError

from services.cli.embedded_redis import redis_command
from shared.bus import DECISIONS, Bus, TrainingQueue, wait_for_redis
from shared.errors import BadSetting, BusAway
from tests.conftest import REDIS_PASSWORD, RedisServer, a_decision
from tests.processes import run

WRONG = "an-old-password"
COMMANDS = [
    ("fleets", "list"),
    ("fleets", "live", "default"),
    ("policies", "list"),
    ("policies", "show", "rule:buffer"),
]


@pytest.fixture
def addresses(redis_url):
    """Of the same Redis: with a wrong password, and with none."""
    return {
        "wrong": redis_url.replace(REDIS_PASSWORD, WRONG),
        "none": redis_url.replace(f":{REDIS_PASSWORD}@", ""),
    }


def told(error):
    text = str(error)
    assert "Redis refuses the password, or wants one" in text
    assert "AUTOPILOT_REDIS_URL and AUTOPILOT_REDIS_PASSWORD_FILE" in text
    assert WRONG not in text
    assert REDIS_PASSWORD not in text


@pytest.mark.parametrize("which", ["wrong", "none"])
async def test_everything_that_talks_to_redis_is_told(addresses, which):
    url = addresses[which]
    bus = Bus.connect(url)
    with pytest.raises(BusAway) as refused:
        await bus.ping()
    told(refused.value)
    with pytest.raises(BusAway) as refused:
        await bus.latest(DECISIONS)
    told(refused.value)
    with pytest.raises(BusAway) as refused:
        await bus.training_jobs()
    told(refused.value)
    await bus.close()
    queue = TrainingQueue(url)
    with pytest.raises(BusAway) as refused:
        queue.status("default")
    told(refused.value)
    queue.connection.close()
    with pytest.raises(BusAway) as refused:
        wait_for_redis(url, 0.1)
    told(refused.value)


@pytest.mark.parametrize("which", ["wrong", "none"])
@pytest.mark.parametrize("command", COMMANDS[:2], ids=" ".join)
def test_a_command_ends_with_one_line(autopilot, addresses, which, command):
    ended = autopilot(*command, AUTOPILOT_REDIS_URL=addresses[which])
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    told(line)


def test_versions_are_listed_all_the_same(autopilot, addresses):
    ended = autopilot("policies", "list", AUTOPILOT_REDIS_URL=addresses["wrong"])
    assert ended.returncode == 0
    # As wide as the terminal, so over several lines.
    told(" ".join(ended.stdout.partition("training of")[2].split()))


def test_a_service_says_it_is_not_ready_and_recovers_no_secret(start, addresses):
    process, url = start("prediction", redis_url=addresses["wrong"])
    answer = httpx.get(f"{url}/readyz")
    assert answer.status_code == 503
    told(answer.json()["detail"])
    process.terminate()
    _, logged = process.communicate()
    assert "Traceback" not in logged
    assert WRONG not in logged
    event = next(one for one in map(json.loads, logged.splitlines()) if "reason" in one)
    told(event["reason"])


def test_a_user_with_too_few_rights_is_told(redis_url, redis_server):
    with redis.Redis.from_url(redis_url) as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">hush", "~*", "+ping", "+hello")
        try:
            url = f"redis://reader:hush@127.0.0.1:{redis_server.port}/0"
            queue = TrainingQueue(url)
            with pytest.raises(BusAway, match=r"allows its user .* too little") as refused:
                queue.status("default")
            assert "hush" not in str(refused.value)
            queue.connection.close()
        finally:
            admin.execute_command("ACL", "DELUSER", "reader")


@pytest.mark.parametrize(
    "url", ["redis://:pa/ss@host:6379/0", "redis://:pa?ss@host:6379/0", "rdis://:pass@host?x=pass"]
)
@pytest.mark.parametrize("connect", [Bus.connect, TrainingQueue])
def test_an_address_that_can_not_be_read_shows_no_part_of_its_password(connect, url):
    with pytest.raises(BadSetting, match=r"AUTOPILOT_REDIS_URL=r?e?dis://\.\.\.@host") as refused:
        connect(url)
    assert "pa" not in str(refused.value).replace("password", "")
    assert "ss" not in str(refused.value).replace("password", "").replace("rediss", "")
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("service", ["trainer", "environment"])
def test_a_bad_address_is_one_line_at_start(service):
    ended = run(
        f"services.{service}", env=os.environ | {"AUTOPILOT_REDIS_URL": "rdis://:hush@redis"}
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "AUTOPILOT_REDIS_URL=rdis://" in line
    assert "@redis: write redis://HOST:PORT/0" in line
    assert "hush" not in line


@pytest.mark.parametrize("folder", ['a "b" \\c', "50%", "ü\n2"])
def test_the_embedded_redis_keeps_its_password_from_others(tmp_path, folder):
    """In its configuration file alone, wherever its data are."""
    home = tmp_path / folder
    home.mkdir()
    server = RedisServer(home / "redis")
    server.start()
    try:
        process = psutil.Process(server._process.pid)
        assert REDIS_PASSWORD not in " ".join(process.cmdline())
        assert REDIS_PASSWORD not in str(process.environ())
        without = server.url.replace(f":{REDIS_PASSWORD}@", "")
        with redis.Redis.from_url(without) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("save") == {"save": ""}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    finally:
        server.stop()
    modes = {
        name: stat.S_IMODE((home / "redis" / name).stat().st_mode) for name in (".", "redis.conf")
    }
    assert modes == {".": 0o700, "redis.conf": 0o600}
    assert REDIS_PASSWORD not in (home / "redis/redis.log").read_text()


def test_data_of_a_redis_without_a_password_go_on(tmp_path, unused_port):
    """Of a folder that an older release has written, readable by others."""
    port = unused_port()
    data = tmp_path / "redis"
    data.mkdir(mode=0o755)
    server = redis_command(f"redis://:x@127.0.0.1:{port}/0", data)[0]
    (data / "redis.conf").unlink()
    options = {"port": port, "dir": data, "appendonly": "yes", "save": ""}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    old = subprocess.Popen([server, *words])
    wait_for_redis(f"redis://127.0.0.1:{port}/0", 10)

    async def publish():
        bus = Bus.connect(f"redis://127.0.0.1:{port}/0")
        await bus.publish(DECISIONS, "default", a_decision())
        await bus.close()

    asyncio.run(publish())
    old.terminate()
    old.wait()
    server = RedisServer(data)
    server.start()
    try:

        async def latest():
            bus = Bus.connect(server.url)
            try:
                return await bus.latest(DECISIONS)
            finally:
                await bus.close()

        assert asyncio.run(latest()) == {"default": a_decision()}
    finally:
        server.stop()
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
