"""Who may use which address of which service, by which names, and what may be posted."""

from collections.abc import Callable

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from services.matchmaking.app import create_app as create_matchmaking
from services.metrics.app import create_app as create_metrics
from services.metrics.fleet_metrics import FleetMetrics
from services.metrics.workload import Workload
from services.prediction.app import create_app as create_prediction
from services.prediction.serve import create_app as create_hosting
from shared.bus import Bus
from shared.core.parameters import FleetParameters
from shared.http.access import Access
from shared.http.app import HttpService
from shared.http.hosts import Hosts
from shared.http.tokens import Role, Tokens
from shared.messages import utc_now
from shared.policies.runtime import load_policy
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings

FLEETS = Fleets({"default": FleetSettings()})
REPORT, READ, OPERATE, AGONES = Role
ALL = {*Role}
HEALTH = {("GET", "/healthz"): ALL, ("GET", "/readyz"): ALL}
"""For everybody; all other addresses want a token."""
READING = {READ, OPERATE}
COMMON = HEALTH | {
    ("GET", path): READING
    for path in ("/metrics", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
}
HOSTING = {("POST", "/invocations"): READING, ("GET", "/ping"): READING}
MAY = {
    "matchmaking": COMMON
    | {("POST", "/demand"): {REPORT}}
    | {("GET", path): READING for path in ("/demand", "/currsine1h", "/currsine24h")},
    "prediction": COMMON
    | HOSTING
    | {("POST", f"/agones/scale{fleet}"): {REPORT, AGONES} for fleet in ("", "/{fleet}")}
    | {
        ("GET", path): READING
        for path in ("/prediction", "/predict/{fleet}", "/predictions", "/policies", "/explain")
    },
    "metrics": COMMON,
    "hosting": COMMON | HOSTING,
}
TOKEN_OF = {role: f"token-of-{role}" for role in Role}


@pytest.fixture
def app_of(tmp_path, unused_port, publish_policy) -> Callable[[str, Access], HttpService]:
    """Makes a service without a Redis: who may come in is decided before."""

    def bus() -> Bus:
        return Bus.connect(f"redis://127.0.0.1:{unused_port()}/0")

    def app_of(service: str, access: Access) -> HttpService:
        store, registry = PolicyStore.at(tmp_path), CollectorRegistry()
        if service == "matchmaking":
            return create_matchmaking(bus=bus(), fleets=FLEETS, clock=utc_now, access=access)
        if service == "prediction":
            return create_prediction(
                bus=bus(), fleets=FLEETS, store=store, clock=utc_now, access=access
            )
        if service == "hosting":
            if not store.versions("default"):
                publish_policy(store, "v1")
            return create_hosting(load_policy(store, "default", "v1", FleetParameters()), access)
        return create_metrics(
            bus=bus(),
            registry=registry,
            fleet_metrics=FleetMetrics(registry, FLEETS, utc_now()),
            workload=Workload(registry, 1),
            put_to_cloudwatch=None,
            access=access,
        )

    return app_of


@pytest.fixture
def tokens(tmp_path) -> Tokens:
    """One token of each role, and one of all."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    for role, token in TOKEN_OF.items():
        (folder / role).write_text(f"{token}\n")
    return Tokens("token-of-all", folder=folder)


def client_of(app: HttpService, token: str | None = None) -> httpx.AsyncClient:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers)


@pytest.mark.parametrize("service", sorted(MAY))
def test_the_table_has_every_route_that_there_is(app_of, service):
    """A route that is added has to be entered there, with who may use it."""
    found = {
        (method, route.path)
        for route in app_of(service, Access()).routes
        for method in (route.methods or ()) - {"HEAD"}
        if isinstance(route, Route)
    }
    assert found == set(MAY[service])


@pytest.mark.parametrize("service", sorted(MAY))
async def test_every_route_is_for_its_roles_alone(app_of, tokens, service):
    app = app_of(service, Access(tokens))
    for (method, path), roles in MAY[service].items():
        url = path.replace("{fleet}", "default")
        open_to_all = (method, path) in HEALTH
        for token in (None, "wrong", ""):
            async with client_of(app, token) as client:
                answer = await client.request(method, url)
            assert (answer.status_code == 401) != open_to_all, (method, path, token)
            assert open_to_all or answer.headers["www-authenticate"] == "Bearer"
        for role, token in (*TOKEN_OF.items(), (None, "token-of-all")):
            async with client_of(app, token) as client:
                answer = await client.request(method, url)
            assert answer.status_code != 401, (method, path, role)
            allowed = role is None or role in roles
            assert (answer.status_code != 403) == allowed, (method, path, role)
            if not allowed:
                named = " or ".join(sorted(roles))
                assert f"a token of the role {named}, and yours" in answer.json()["detail"]
                assert token not in answer.text


@pytest.mark.parametrize("service", sorted(MAY))
async def test_without_tokens_nothing_wants_one(app_of, service):
    async with client_of(app_of(service, Access())) as client:
        for method, path in MAY[service]:
            answer = await client.request(method, path.replace("{fleet}", "default"))
            assert answer.status_code not in (401, 403), path


@pytest.mark.parametrize("service", sorted(MAY))
def test_the_document_says_who_may(app_of, tokens, service):
    documents = {
        secured: app_of(service, Access(tokens if secured else Tokens())).openapi()
        for secured in (True, False)
    }
    for path, methods in documents[True]["paths"].items():
        for method, operation in methods.items():
            roles = MAY[service][method.upper(), path]
            named = {role for each in operation.get("security", ()) for (role,) in each.values()}
            assert named == (set() if roles == ALL else roles)
            assert ("403" in operation["responses"]) == (roles != ALL)
            assert "security" not in documents[False]["paths"][path][method]


FORMS = [
    None,
    "text/plain",
    "text/plain; charset=UTF-8",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
    "text/plain; a=application/json",
]
"""What a page of any origin can post without asking first, and the like."""


@pytest.mark.parametrize("said", FORMS)
@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("matchmaking", "/demand"),
        ("prediction", "/agones/scale"),
        ("prediction", "/agones/scale/default"),
    ],
)
async def test_what_a_web_page_can_post_is_415(app_of, service, path, said):
    headers = {} if said is None else {"Content-Type": said}
    async with client_of(app_of(service, Access())) as client:
        answer = await client.post(path, content=b'{"num_of_gameservers": 0}', headers=headers)
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize("said", ["application/json", "Application/JSON ; charset=utf-8"])
async def test_json_is_taken_whatever_its_parameters(app_of, said):
    async with client_of(app_of("matchmaking", Access())) as client:
        answer = await client.post("/demand", content=b"{}", headers={"Content-Type": said})
    assert answer.status_code == 422


OURS = [
    "127.0.0.1:8000",
    "10.1.2.3",
    "[::1]:8000",
    "[fe80::1]",
    "localhost:8001",
    "LocalHost.",
    "prediction",
    "my_matchmaking:8001",
    "prediction.gameserver-autopilot.svc:8000",
    "prediction.gameserver-autopilot.svc.cluster.local",
    "autopilot.localhost",
    "autopilot.corp.internal",
    "game.example.com:80",
    "a.example.org",
    "a.b.example.org",
    "",
]
FOREIGN = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "example.org",
    "aexample.org",
    "game.example.com.evil.example",
    "svc.evil",
    "[evil.example]",
    "x" * 400,
    "x" * 70_000 + ".svc",
]


@pytest.mark.parametrize("service", sorted(MAY))
async def test_a_name_that_is_not_ours_is_421(app_of, service):
    """Another site's name that its owner has mean this machine (DNS rebinding)."""
    access = Access(hosts=Hosts(("game.example.com", "*.example.org")))
    async with client_of(app_of(service, access)) as client:
        for host in OURS:
            answer = await client.get("/openapi.json", headers={"Host": host})
            assert answer.status_code == 200, host
        for host in FOREIGN:
            answer = await client.get("/openapi.json", headers={"Host": host})
            assert answer.status_code == 421, host
            assert "AUTOPILOT_ALLOWED_HOSTS" in answer.json()["detail"]
            assert len(answer.text) < 500
        probed = await client.get("/healthz", headers={"Host": "evil.example"})
    assert probed.status_code == 200


async def test_any_name_where_that_is_said(app_of):
    async with client_of(app_of("hosting", Access(hosts=Hosts("*")))) as client:
        answer = await client.get("/ping", headers={"Host": "model.aws.example"})
    assert answer.status_code == 200


def test_hosts_that_callers_invent_fill_no_memory():
    hosts = Hosts()
    for number in range(2_000):
        assert not hosts.allows(b"evil%d.example" % number)
    assert hosts._remembered.cache_info().currsize <= 256
