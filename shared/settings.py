"""Every setting, from `AUTOPILOT_*` environment variables; only entry points read it.

Named as the notebook names its parameters. A fleet file (`AUTOPILOT_FLEETS`, TOML, one table a
fleet) may set any of `FleetSettings` for a fleet, in lower case.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from shared.core.guards import Guards
from shared.core.parameters import FleetParameters, ObservationName, RewardName
from shared.core.schedule import ScheduledFloor
from shared.errors import BadSetting, UnknownFleet
from shared.http.access_settings import AccessSettings
from shared.known_names import PREFIX, check_names, is_service_address
from shared.messages import MAX_SERVERS_EVER, FleetId
from shared.redaction import keep_password_of, keep_secret, redact
from shared.redis_address import kept_url, with_password_of

REGION_OF_AN_ENDPOINT = "us-east-1"
"""For signatures, where an AWS endpoint is set and no region."""
SECRETS_OF_AWS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
LOCAL_DEMAND = "local"
"""The `gs_inventory_url` that means the notebook's own sine."""
SHORTEST_TTL_SECONDS = 5.0
"""A demo may step faster than a busy machine delays."""
LONGEST_DELAY_STEPS = 1_000
"""A fleet's record keeps an ask for each."""
SHORTEST_STEP_SECONDS, LONGEST_STEP_SECONDS = 0.001, 86_400.0
"""`autopilot up` plays a thousand steps a second at most; over a day apart nothing is followed."""
LONGEST_TTL_SECONDS = 366 * 86_400.0
"""A year: what is older counts for nothing, and times stay far from the last that a clock knows."""
LONGEST_TRAINING_SECONDS = 7 * 86_400.0
"""A week of learning in one job, which holds its trainer meanwhile; the notebook's was 8 hours."""
MOST_SERVERS_PER_TICKET = 1_000.0
"""Tickets are of players, and a server takes several of them."""
MOST_OVER_PROV_FACTOR = 1_000_000.0
"""Beyond it a reward of float32 no longer sees idle servers beside missing ones."""
MOST_BATCH = 1_000_000
"""Transitions of one job: two years of a fleet at 65 s, and far more than are kept of it."""
MOST_ACTORS = 1_000
"""Ray actors of one training job: each is a process, mostly with a core of its own."""
LAST_SEED = 2**32 - 1
"""NumPy's older generators, which RLlib seeds, take no more."""

_WRITE_INSTEAD = {
    "zoneinfo_str": "there is no such time zone: write one such as Europe/Berlin",
    "time_delta_parsing": "write seconds, or '3:00:00' for hours, minutes and seconds",
    "time_delta_type": "write seconds, or '3:00:00' for hours, minutes and seconds",
    "tuple_type": "write an array, with a table or an object for each",
    "unexpected_keyword_argument": "there is no such field",
}
"""What to do, by the type of pydantic's error, where its message does not say it."""

TtlSeconds = Annotated[float, Field(gt=0, le=LONGEST_TTL_SECONDS, allow_inf_nan=False)]
MoveLimit = Annotated[int, Field(ge=0, le=MAX_SERVERS_EVER)]
"""Servers in a step; no target moves further than through all of them."""
Actors = Annotated[int, Field(ge=0, le=MOST_ACTORS)]
Port = Annotated[int, Field(ge=1, le=65535)]


class FleetSettings(BaseSettings):
    """What may differ from fleet to fleet."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    # Limits, in game servers.
    min_servers: Annotated[int, Field(ge=0, le=MAX_SERVERS_EVER)] = 10
    max_servers: Annotated[int, Field(ge=0, le=MAX_SERVERS_EVER)] = 100
    action_factor: Annotated[int, Field(gt=0, le=MAX_SERVERS_EVER)] = 100

    # Guards between what a policy asks for and what is told; 0 is off.
    max_step_up: MoveLimit = 0
    """Servers that the target may rise in a step."""
    max_step_down: MoveLimit = 0
    """Servers that the target may fall in a step."""
    scale_down_delay: Annotated[int, Field(ge=0, le=LONGEST_DELAY_STEPS)] = 0
    """Steps for which less has to be asked before less is told."""
    floor_at_allocated: bool = False
    """Never tell less than allocated servers and waiting tickets, where they are reported."""
    servers_per_ticket: Annotated[
        float, Field(ge=0, le=MOST_SERVERS_PER_TICKET, allow_inf_nan=False)
    ] = 1
    """Servers that a waiting ticket adds to that floor; 0 leaves tickets out."""
    scheduled_floors: tuple[ScheduledFloor, ...] = ()
    """Known events and the servers that they need: in a fleet file an array of tables, in the
    variable a JSON array of objects, with `cron`, `zone`, `duration` and `servers`."""
    shadow: bool = False
    """How a fleet starts: decided for and scored, but callers are told 503. From then on `autopilot
    fleets live` and `shadow` say which."""

    # What is good, and how far ahead to look.
    over_prov_factor: Annotated[
        float, Field(ge=0, le=MOST_OVER_PROV_FACTOR, allow_inf_nan=False)
    ] = 5
    reward: RewardName = "asymmetric"
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.9
    history_len: Annotated[int, Field(ge=2, le=100)] = 5
    observation: ObservationName = "calendar"
    """What a new policy sees: `calendar`, or only the `notebook`'s numbers."""

    # The clock, and where demand comes from; `{fleet}` in the URL becomes the fleet's name.
    learning_freq: Annotated[
        float, Field(ge=SHORTEST_STEP_SECONDS, le=LONGEST_STEP_SECONDS, allow_inf_nan=False)
    ] = 65
    matchmaking_url: str = "http://127.0.0.1:8001"
    """Base address of the matchmaking service."""
    gs_inventory_url: str = Field(
        default_factory=lambda given: f"{given['matchmaking_url']}/demand?fleet={{fleet}}"
    )
    demand_ttl: TtlSeconds | None = None
    """Seconds after which a demand is stale; three steps, at least five seconds, unless set."""
    decision_ttl: TtlSeconds | None = None
    """Seconds after which a decision is stale; three steps, at least five seconds, unless set."""

    # Learning.
    learning: Literal["replay", "on_policy"] = "replay"
    """Learn on replayed demand, or as the notebook does, on the live transitions alone."""
    train_batch_size: Annotated[int, Field(ge=1, le=MOST_BATCH)] = 128
    """New transitions after which a training job is queued, and of one `on_policy` update."""
    time_total_s: Annotated[
        float, Field(gt=0, le=LONGEST_TRAINING_SECONDS, allow_inf_nan=False)
    ] = 60
    """Seconds of learning in one training job."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            _ = self.parameters
        except BadSetting as error:
            raise ValueError(str(error)) from error
        most = max((event.servers for event in self.scheduled_floors), default=0)
        if most > self.max_servers:
            raise ValueError(
                f"scheduled_floors need {most} servers and max_servers is {self.max_servers}: "
                "raise MAX_SERVERS, or lower the floor"
            )
        if self.gs_inventory_url != LOCAL_DEMAND and not self.gs_inventory_url.startswith(
            ("http://", "https://")
        ):
            raise ValueError(
                f"gs_inventory_url {self.gs_inventory_url!r} must be http://..., https://... "
                "or local"
            )
        return self

    @property
    def parameters(self) -> FleetParameters:
        """The numbers that the core needs."""
        return FleetParameters(
            min_servers=float(self.min_servers),
            max_servers=float(self.max_servers),
            action_factor=float(self.action_factor),
            over_prov_factor=self.over_prov_factor,
            history_len=self.history_len,
            reward=self.reward,
            observation=self.observation,
        )

    @property
    def guards(self) -> Guards:
        """What stands between an ask and what is told, beside the limits."""
        return Guards(
            max_step_up=self.max_step_up,
            max_step_down=self.max_step_down,
            scale_down_delay=self.scale_down_delay,
            floor_at_allocated=self.floor_at_allocated,
            servers_per_ticket=self.servers_per_ticket,
            scheduled_floors=self.scheduled_floors,
        )

    @property
    def demand_ttl_s(self) -> float:
        """Seconds after which a demand is stale."""
        return self.demand_ttl or max(3 * self.learning_freq, SHORTEST_TTL_SECONDS)

    @property
    def decision_ttl_s(self) -> float:
        """Seconds after which a decision is stale."""
        return self.decision_ttl or max(3 * self.learning_freq, SHORTEST_TTL_SECONDS)


class Settings(AccessSettings):
    """What is the same for every fleet."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    # Where things are.
    redis_port: Port = 6380
    """Port of the Redis that `autopilot up` embeds."""
    redis_url: str = Field(
        default_factory=lambda given: kept_url() or f"redis://127.0.0.1:{given['redis_port']}/0"
    )
    """Set it to use a Redis of your own; else it is the one that `autopilot up` embeds here."""
    redis_password_file: Path | None = None
    """Holds the password of the Redis at `redis_url`, which then has none in it."""
    policy_store: str = ".autopilot/policies"
    """A folder that all services share, or s3://bucket/prefix."""
    signing_key_file: Path | None = None
    """A mounted key, which manifests of policies are signed with: no others are read."""
    fleets: Path | None = None
    """A TOML file, a table a fleet. Without one there is one fleet, `default`."""

    # Addresses to listen on.
    host: str = "127.0.0.1"
    prediction_port: Port = 8000
    matchmaking_port: Port = 8001
    metrics_port: Port = 8003
    console_port: Port = 8002

    # TLS of the prediction service: a mounted certificate, read again when it is renewed.
    tls_cert_file: Path | None = None
    """PEM, with the certificates between it and the caller's CA."""
    tls_key_file: Path | None = None

    # Metrics in CloudWatch, put where AWS is configured (AWS_REGION or AWS_DEFAULT_REGION).
    cloudwatch_namespace: Annotated[str, Field(min_length=1, max_length=255)] = (
        "rl-game-server-autopilot"
    )

    # Training.
    save_model: bool = True
    """Keep the RLlib checkpoint in the policy artefact, to resume from."""
    seed: Annotated[int, Field(ge=0, le=LAST_SEED)] = 0
    num_env_runners: Actors = 0
    """Ray actors that replay demand; 0 for none but the trainer itself."""
    num_learners: Actors = 0
    """Ray actors that learn; 0 for none but the trainer itself."""

    # Health: a worker without an address touches this file while it is well (`shared/probe.py`).
    heartbeat: Path | None = None

    # Logs: `json`, `console`, or `auto` (console on a terminal).
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="before")
    @classmethod
    def _without_service_addresses(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Kubernetes sets a port's variable to an address where a Service has its name."""
        return {
            name: value
            for name, value in given.items()
            if not (name.endswith("_port") and is_service_address(value))
        }

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError(
                "AUTOPILOT_TLS_CERT_FILE and AUTOPILOT_TLS_KEY_FILE go together: set both, or none"
            )
        return self


class HostingSettings(BaseSettings):
    """Of a container that serves one artefact alone, as SageMaker runs it."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    model_dir: Path = Field(Path("/opt/ml/model"), validation_alias=f"{PREFIX}MODEL_DIR")
    """Where SageMaker unpacks a model's archive."""
    port: Port = Field(8080, validation_alias="SAGEMAKER_BIND_TO_PORT")


class Fleets:
    """The configured fleets, by name."""

    def __init__(self, by_name: dict[str, FleetSettings]) -> None:
        self.by_name = by_name

    def __getitem__(self, fleet: str) -> FleetSettings:
        try:
            return self.by_name[fleet]
        except KeyError:
            raise UnknownFleet(fleet, self.names) from None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.by_name)


NAMES = frozenset({*Settings.model_fields, *FleetSettings.model_fields, "model_dir"})
"""Of all settings, in lower case and without the prefix."""


def load_settings() -> Settings:
    """Settings of this process; raises `BadSetting` with the variable's name and the reason."""
    check_names(os.environ, NAMES)
    try:
        settings = Settings()
    except ValidationError as error:
        raise BadSetting(_reason(error, PREFIX, str.upper)) from error
    settings = _with_password(settings)
    keep_secret(*(os.environ.get(name, "") for name in SECRETS_OF_AWS))
    keep_secret(*(t.get_secret_value() for t in (settings.api_token, settings.agones_token) if t))
    keep_password_of(settings.redis_url)
    return settings


def _with_password(settings: Settings) -> Settings:
    file = settings.redis_password_file
    if file is None:
        return settings
    if "redis_url" not in settings.model_fields_set:
        raise BadSetting(
            f"AUTOPILOT_REDIS_PASSWORD_FILE={file} goes with AUTOPILOT_REDIS_URL: set both, or none"
        )
    return settings.model_copy(update={"redis_url": with_password_of(settings.redis_url, file)})


def load_hosting_settings() -> HostingSettings:
    """Settings of a container that serves one artefact; raises `BadSetting` as `load_settings`."""
    try:
        return HostingSettings()
    except ValidationError as error:
        raise BadSetting(_reason(error, "", str)) from error


def load_fleets(settings: Settings) -> Fleets:
    """Settings of every fleet: the fleet file's tables over the environment variables."""
    tables: dict[str, Any] = {"default": {}}
    if settings.fleets is not None:
        tables = _tables(settings.fleets)
    fleets = Fleets({name: _fleet(name, table) for name, table in tables.items()})
    for fleet in fleets.by_name.values():
        keep_password_of(fleet.matchmaking_url)
        keep_password_of(fleet.gs_inventory_url)
    return fleets


def aws_endpoint(service: str) -> str | None:
    """Where AWS's standard variables say that a service is, instead of at AWS."""
    own = os.environ.get(f"AWS_ENDPOINT_URL_{service.upper()}")
    return own or os.environ.get("AWS_ENDPOINT_URL") or None


def aws_region(service: str) -> str | None:
    """The region by AWS's standard variables; None where neither it nor an endpoint is set."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return region or (REGION_OF_AN_ENDPOINT if aws_endpoint(service) else None)


def _fleet(name: str, table: dict[str, Any]) -> FleetSettings:
    try:
        TypeAdapter(FleetId).validate_python(name)
    except ValidationError:
        raise BadSetting(
            f"{name!r} can't be a fleet's name: use letters, digits, - and _, at most 63"
        ) from None
    try:
        return FleetSettings(**table)
    except ValidationError as error:
        where = f"fleet {name!r}: " if table else ""
        raise BadSetting(where + _reason(error, PREFIX, str.upper)) from error
    except SettingsError as error:
        raise BadSetting(
            f'{PREFIX}SCHEDULED_FLOORS is not JSON: write [{{"cron": "0 18 * * FRI", '
            '"zone": "Europe/Berlin", "duration": "3:00:00", "servers": 50}]'
        ) from error


def _tables(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadSetting(f"AUTOPILOT_FLEETS={path}: can't read it: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also of a number of thousands of digits
        raise BadSetting(f"AUTOPILOT_FLEETS={path} is not TOML: {error}") from error
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise BadSetting(f"AUTOPILOT_FLEETS={path}: write one table a fleet, such as [default]")
    return tables


def _reason(error: ValidationError, prefix: str, case: Any) -> str:
    first = error.errors()[0]
    name = prefix + case(str(first["loc"][0])) if first["loc"] else ""
    within = "".join(f"[{at!r}]" for at in first["loc"][1:])
    message = _WRITE_INSTEAD.get(first["type"], first["msg"].removeprefix("Value error, "))
    if name.endswith("_TOKEN"):
        return f"{name}: {message}"
    return redact(f"{name}{within}={first['input']!r}: {message}" if name else message)
