"""The settings that may differ from fleet to fleet, and the fleets by name."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.core.guards import Guards
from shared.core.lobby import LOST_IN_WAITS, CostWeights, Lobby
from shared.core.parameters import FleetParameters, ObservationName, RewardName
from shared.core.schedule import ScheduledFloor
from shared.errors import BadSetting, UnknownFleet
from shared.known_names import PREFIX
from shared.messages import MAX_SERVERS_EVER

LOCAL_DEMAND = "local"
"""The `gs_inventory_url` that means the notebook's own sine."""
SHORTEST_TTL_SECONDS = 5.0
"""A demo may step faster than a busy machine delays."""
LONGEST_DELAY_STEPS = 1_000
"""A fleet's record holds a requested target for each."""
SHORTEST_STEP_SECONDS, LONGEST_STEP_SECONDS = 0.001, 86_400.0
"""`autopilot up` plays at most a thousand steps per second; over a day apart is no control."""
LONGEST_TTL_SECONDS = 366 * 86_400.0
"""A year: older data is useless, and times stay within what `datetime` can represent."""
LONGEST_TRAINING_SECONDS = 7 * 86_400.0
"""A week in one job, which occupies its trainer all the time; the notebook's was 8 hours."""
MOST_SERVERS_PER_TICKET = 1_000.0
"""A ticket is one player or a group, and a server takes several."""
MOST_OVER_PROV_FACTOR = 1_000_000.0
"""Above it, idle servers vanish beside missing ones in a float32 reward."""
MOST_BATCH = 1_000_000
"""Transitions of one job: two years of a fleet at 65 s, far more than are stored."""

TtlSeconds = Annotated[float, Field(gt=0, le=LONGEST_TTL_SECONDS, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_STEP_SECONDS, allow_inf_nan=False)]
RateLimit = Annotated[int, Field(ge=0, le=MAX_SERVERS_EVER)]
"""Servers per step."""


class FleetSettings(BaseSettings):
    """What may differ from fleet to fleet."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    # Limits, in game servers.
    min_servers: Annotated[int, Field(ge=0, le=MAX_SERVERS_EVER)] = 10
    max_servers: Annotated[int, Field(ge=0, le=MAX_SERVERS_EVER)] = 100
    action_factor: Annotated[int, Field(gt=0, le=MAX_SERVERS_EVER)] = 100

    # Guards between a policy's requested target and the recommended one; 0 is off.
    max_step_up: RateLimit = 0
    """Servers by which the target may rise per step."""
    max_step_down: RateLimit = 0
    """Servers by which the target may fall per step."""
    scale_down_delay: Annotated[int, Field(ge=0, le=LONGEST_DELAY_STEPS)] = 0
    """Stabilization window: steps for which less must be requested before the target falls."""
    floor_at_allocated: bool = False
    """Never recommend less than allocated servers and waiting tickets need, where reported."""
    servers_per_ticket: Annotated[
        float, Field(ge=0, le=MOST_SERVERS_PER_TICKET, allow_inf_nan=False)
    ] = 1
    """Servers that each waiting ticket adds to that floor; 0 ignores tickets."""
    scheduled_floors: tuple[ScheduledFloor, ...] = ()
    """Known events and the servers that they need: in a fleet file an array of tables, in the
    variable a JSON array of objects, with `cron`, `zone`, `duration` and `servers`."""
    shadow: bool = False
    """The mode in which a fleet starts: in shadow it is decided for and scored, but callers get
    503. `autopilot fleets live` and `shadow` change the mode."""

    # The reward, its discount and the lead time.
    over_prov_factor: Annotated[
        float, Field(ge=0, le=MOST_OVER_PROV_FACTOR, allow_inf_nan=False)
    ] = 5
    reward: RewardName = "asymmetric"
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.9
    history_len: Annotated[int, Field(ge=2, le=100)] = 5
    observation: ObservationName = "calendar"
    """The observation of new policies: `calendar`, or only the `notebook`'s numbers."""

    # How players behave, in the lobby's dynamics.
    session_seconds: Seconds = 780
    """How long a match takes, on average."""
    patience_seconds: Seconds = 1300
    """How long players wait for a match before they leave, on average."""

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
    """Train on replayed demand, or as in the notebook, on the live transitions alone."""
    train_batch_size: Annotated[int, Field(ge=1, le=MOST_BATCH)] = 128
    """New transitions after which a training job is queued, and of one `on_policy` update."""
    time_total_s: Annotated[
        float, Field(gt=0, le=LONGEST_TRAINING_SECONDS, allow_inf_nan=False)
    ] = 60
    """Training budget of one job, in seconds."""

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
        """The parameters of the fleet's environment."""
        return FleetParameters(
            min_servers=float(self.min_servers),
            max_servers=float(self.max_servers),
            action_factor=float(self.action_factor),
            over_prov_factor=self.over_prov_factor,
            history_len=self.history_len,
            reward=self.reward,
            observation=self.observation,
        )

    def lobby(self, step_seconds: float) -> Lobby:
        """The numbers of the lobby's dynamics, at so many seconds of game time a step."""
        return Lobby(
            step_seconds=step_seconds,
            session_seconds=self.session_seconds,
            patience_seconds=self.patience_seconds,
            weights=CostWeights(
                waiting=self.over_prov_factor, lost=LOST_IN_WAITS * self.over_prov_factor
            ),
        )

    @property
    def guards(self) -> Guards:
        """The guards between requested and recommended target, beside the limits."""
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
