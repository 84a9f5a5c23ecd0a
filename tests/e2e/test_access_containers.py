"""Who gets to Redis, and with what: a password that nobody typed, on a network of its own."""

import json
import subprocess
import uuid

import pytest

from tests.e2e.conftest import EVERYTHING
from tests.e2e.containers import SERVICES, Platform, docker, lines, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300, func_only=True)]

REDIS = "redis:7"
SERVICE = "gameserver-autopilot-service"
URL_FILE, PASSWORD_FILE = "/app/.autopilot/redis.url", "/run/autopilot/redis.password"
OUTSIDERS = ("play", "aws", "prometheus")
REACH = "import socket; socket.create_connection(({host!r}, 6379), 3).close(); print('reached')"
ECHO = """
import http.server
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.path, self.headers["Authorization"], flush=True)
        self.send_response(200); self.send_header("Content-Type", "text/plain"); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("", 8003), Echo).serve_forever()
"""


@pytest.fixture
def run():
    """Runs an image with `docker run`; removes the container after the test."""
    started = []

    def run(*arguments: str) -> str:
        name = f"autopilot-e2e-access-{uuid.uuid4().hex[:8]}"
        started.append(name)
        words = ["docker", "run", "--name", name, *arguments]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    yield run
    for name in started:
        remove = ["docker", "rm", "--force", "--volumes", name]
        subprocess.run(remove, capture_output=True, check=False)


def password(platform: Platform) -> str:
    return platform.execute("redis", "cat", PASSWORD_FILE)


@pytest.mark.parametrize(
    ("options", "says"), [((), "NOAUTH"), (("-a", "a-wrong-one"), "WRONGPASS")]
)
def test_without_the_password_redis_refuses_even_on_its_network(platform, run, options, says):
    network = f"{platform.project}_redis"
    said = run("--network", network, REDIS, "redis-cli", "-h", "redis", *options, "ping")
    assert says in said
    assert "PONG" not in said


@pytest.mark.parametrize("network", ["default", "bridge"])
def test_nobody_else_reaches_redis_at_all(platform, run, network):
    """Neither by its name nor by its address."""
    (of_redis,) = platform.container("redis")["NetworkSettings"]["Networks"].values()
    name = "bridge" if network == "bridge" else f"{platform.project}_{network}"
    for host in ("redis", of_redis["IPAddress"]):
        said = run("--network", name, SERVICE, "python", "-c", REACH.format(host=host))
        assert "reached" not in said
        assert "error" in said.lower()
    assert platform.container("redis")["NetworkSettings"]["Ports"].get("6379/tcp") is None


def test_only_who_needs_redis_is_on_its_network(platform):
    platform.compose(*EVERYTHING, "up", "--detach", "--no-recreate", "prometheus")
    for service in (*SERVICES, "prometheus"):
        networks = set(platform.container(service)["NetworkSettings"]["Networks"])
        with_redis = f"{platform.project}_redis" in networks
        assert with_redis == (service not in OUTSIDERS), service
    assert json.loads(docker("network", "inspect", f"{platform.project}_redis"))[0]["Internal"]
    said = platform.attempt("play", "python", "-c", REACH.format(host="redis"))
    assert "reached" not in said
    assert "error" in said.lower()


def test_the_password_is_in_two_files_and_nowhere_else(platform):
    secret = password(platform)
    assert len(secret) >= 32
    assert platform.execute("prediction", "cat", URL_FILE).strip() == (
        f"redis://:{secret}@redis:6379/0"
    )
    modes = platform.execute("prediction", "stat", "-c", "%a %u:%g", "/app/.autopilot", URL_FILE)
    assert modes.split("\n")[:2] == ["750 10001:10001", "600 10001:10001"]
    assert platform.execute("redis", "stat", "-c", "%a", PASSWORD_FILE).strip() == "640"
    for service in ("access", *SERVICES):
        container = platform.container(service)
        assert secret not in json.dumps(container), service
        logged = subprocess.run(
            ["docker", "logs", container["Id"]], capture_output=True, text=True, check=True
        )
        assert secret not in logged.stdout + logged.stderr, service
        if container["State"]["Running"]:
            assert secret not in docker("top", container["Id"]), service
    for service in OUTSIDERS[:2]:
        assert "No such file" in platform.attempt(service, "cat", URL_FILE), service


def test_redis_that_refuses_is_not_healthy(platform):
    _, check = platform.container("redis")["Config"]["Healthcheck"]["Test"]
    assert PASSWORD_FILE in check
    for file, healthy in ((PASSWORD_FILE, True), ("/dev/null", False), ("/etc/hostname", False)):
        words = ["docker", "exec", platform.container("redis")["Id"], "sh", "-c"]
        done = subprocess.run(
            [*words, check.replace(PASSWORD_FILE, file)], capture_output=True, check=False
        )
        assert (done.returncode == 0) is healthy, file


def test_another_start_keeps_the_password(platform):
    before = password(platform)
    platform.compose("up", "--detach", "access")
    until(
        lambda: platform.container("access")["State"]["Status"] == "exited" or None,
        "access ended",
    )
    assert platform.container("access")["State"]["ExitCode"] == 0
    assert password(platform) == before


def test_commands_in_a_container_need_no_variable(platform):
    assert "live" in platform.execute("prediction", "autopilot", "fleets", "list")
    listed = platform.execute("environment", "autopilot", "policies", "list")
    assert "training of" in listed
    assert "unknown" not in listed


def test_a_redis_of_ones_own_goes_before(platform, run):
    network = f"{platform.project}_default"
    options = ("--detach", "--network", network, "--network-alias", "own")
    run(*options, REDIS, "redis-server", "--requirepass", "of-its-own", "--save", "")

    def live(url):
        words = ("run", "--rm", "--no-deps", "-T", "-e", f"AUTOPILOT_REDIS_URL={url}", "prediction")
        return platform.compose(*words, "autopilot", "fleets", "live", "default", check=False)

    done = live("redis://:of-its-own@own:6379/0")
    assert done.returncode == 0, done.stderr
    done = live("redis://:another@own:6379/0")
    assert done.returncode == 1
    (line,) = lines(done.stdout + done.stderr)
    assert "Redis refuses the password, or wants one: look at AUTOPILOT_REDIS_URL" in line
    assert "another" not in line


def test_data_of_an_older_release_go_on(platform, run):
    """Written without a password, by Redis as its image's own user."""
    platform.compose("stop", "redis")
    mount = ("--volume", f"{platform.project}_redis:/data", "--user", "redis")
    old = "redis-server --appendonly yes --save ''"
    write = "redis-cli --no-raw SET kept yes && redis-cli SHUTDOWN"
    wait = "until redis-cli ping | grep -q PONG; do sleep 0.1; done"
    said = run(*mount, REDIS, "sh", "-c", f"{old} & {wait}; {write}; wait")
    assert "OK" in said, said
    platform.compose("start", "redis")
    until(
        lambda: platform.container("redis")["State"]["Health"]["Status"] == "healthy" or None,
        "redis healthy",
    )
    assert platform.redis("GET", "kept") == "yes"
    assert platform.transitions(), "and everything else that was there"


def test_prometheus_sends_its_token(platform, run):
    """To whatever has the name of a target."""
    platform.compose(*EVERYTHING, "up", "--detach", "--no-recreate", "prometheus")
    platform.compose("stop", "metrics")
    try:
        place = ("--network", f"{platform.project}_default", "--network-alias", "metrics")
        run("--detach", *place, SERVICE, "python", "-c", ECHO)
        newest = docker("ps", "--quiet", "--latest").strip()
        token = platform.execute("prometheus", "cat", "/run/autopilot/token")
        assert "No such file" in platform.attempt("prometheus", "cat", PASSWORD_FILE)
        said = until(lambda: docker("logs", newest) or None, "a scrape")
        assert said.splitlines()[0] == f"/metrics Bearer {token}"
    finally:
        platform.compose("start", "metrics")
