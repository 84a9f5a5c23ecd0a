"""Every message that crosses a process: frozen, extra fields refused, times in UTC."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from shared.core.adaptation import FRESH, Adaptation
from shared.core.guards import GuardName, Move
from shared.core.lead_time import LeadTime
from shared.core.parameters import FleetParameters

MAX_SERVERS_EVER = 1_000_000
"""Above this a demand is a mistake, not a game."""
SUPPLY_SECONDS = 120
"""For so long a `FleetSupply` counts; Agones tells it again every 30 s by default."""


def _written_out(moment: object) -> object:
    """Pydantic also takes a number for a time, of seconds or milliseconds as it sees fit."""
    if isinstance(moment, datetime) or (isinstance(moment, str) and "-" in moment[1:]):
        return moment
    raise ValueError("write a time as RFC 3339, such as 2026-11-22T20:33:01Z")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time is within the years 1 to 9999 in UTC") from None


FleetId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
"""A pool of game servers; also a folder of the policy store and a part of Redis keys."""
Servers = Annotated[float, Field(strict=True, ge=0, le=MAX_SERVERS_EVER, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]
Utc = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]
Behaviour = tuple[Finite, Positive]
"""Mean and standard deviation that an action was drawn with."""
Label = Annotated[str, Field(min_length=1, max_length=200)]

Fallback = Literal["no_policy", "stale_decision", "stale_demand"]


class Message(BaseModel):
    """What every message has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Supply(Message):
    """Game servers as the matchmaker or the fleet's controller counts them."""

    allocated: Count | None = None
    ready: Count | None = None
    reserved: Count | None = None
    starting: Count | None = None

    @property
    def up(self) -> int | None:
        """Game servers that players can be on; None where that is not told."""
        if self.allocated is None or self.ready is None:
            return None
        return self.allocated + self.ready + (self.reserved or 0)


class FleetSupply(Message):
    """The supply of a fleet as its controller told it, and when."""

    fleet: FleetId
    at: Utc
    supply: Supply


class LeadTimes(Message):
    """Seconds from a raised target to the servers: as measured, and as the environment assumes."""

    measured_s: NotNegative
    assumed_s: Positive


class DemandReport(Message):
    """What a matchmaker posts: game servers needed now, or players and players per server."""

    fleet: FleetId = "default"
    num_of_gameservers: Servers | None = None
    ccu: NotNegative | None = None
    """Players connected now."""
    players_per_server: Positive | None = None
    observed_at: Utc | None = None
    source: Label | None = None
    seq: Count | None = None
    idempotency_key: Label | None = None
    tickets_waiting: Count | None = None
    oldest_ticket_age_s: NotNegative | None = None
    supply: Supply | None = None

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if (self.num_of_gameservers is None) == (self.ccu is None):
            raise ValueError("give either num_of_gameservers or ccu, not both and not neither")
        if (self.ccu is None) != (self.players_per_server is None):
            raise ValueError(
                "ccu and players_per_server go together: demand = ccu / players_per_server"
            )
        if self.demand > MAX_SERVERS_EVER:
            raise ValueError(
                f"demand is {self.demand:g} servers; at most {MAX_SERVERS_EVER} is taken"
            )
        return self

    @property
    def demand(self) -> float:
        """Game servers needed now."""
        if self.num_of_gameservers is not None:
            return self.num_of_gameservers
        assert self.ccu is not None
        assert self.players_per_server is not None
        return self.ccu / self.players_per_server


class Demand(Message):
    """A recorded demand, as it stands on the demand stream."""

    fleet: FleetId
    demand: Servers
    observed_at: Utc
    source: Label | None = None
    seq: Count | None = None
    tickets_waiting: Count | None = None
    oldest_ticket_age_s: float | None = None
    supply: Supply | None = None


class Transition(Message):
    """The record of one step; servers unless it says otherwise."""

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    at: Utc
    """When the step was due."""
    observation: tuple[Finite, ...]
    action: Finite
    target: Servers
    demand: Servers
    """Within the fleet's limits, as the environment sees it."""
    reported_demand: Servers
    """As the matchmaker reported it; above `demand` when it exceeds the limits."""
    allocation: Servers
    reward: Finite
    next_observation: tuple[Finite, ...]
    done: bool = False
    """Last step of an episode of 301."""
    policy_version: str
    behaviour: Behaviour | None = None
    """What the action was drawn from, where the fleet explores; None: it was not drawn."""
    stale: bool = False
    """No fresh demand: the last one was held. Never trained on."""
    gap_steps: Count = 0
    """Steps that were due since the one before and did not happen (the worker was away)."""
    supply: Supply | None = None
    """What the fleet really had, where it is told: `allocation` is what was asked for."""
    lead_times: LeadTimes | None = None
    floor: NotNegative = 0.0
    """What was told after it was not to go below: servers in use, and those that tickets need."""


class Decision(Message):
    """What the outside is told: the newest target of a fleet, by whom, and why."""

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    """The step that the target is asked for at."""
    target: Servers
    allocation: Servers
    """Servers that are up now: the target of `history_len` steps ago."""
    curr_demand: Servers
    """The demand that the decision has seen last, as it was reported."""
    action: Finite
    observation: tuple[Finite, ...]
    policy_version: str
    decided_at: Utc
    fallback: Fallback | None = None
    guards: tuple[GuardName, ...] = ()
    """What changed the policy's target; the first settled it."""


class Explanation(Message):
    """How a fleet's newest decision came about; numbers in servers unless they say otherwise."""

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    """The step that the target is asked for at."""
    decided_at: Utc
    policy_version: str
    fallback: Fallback | None = None
    observation: dict[str, float | None]
    """What the policy saw, by the names of its fields; None: its history does not reach so far."""
    demands: tuple[Finite, ...]
    """The last `history_len`, oldest first: all that the plain rule sees."""
    answers: tuple[Finite, ...] = ()
    """The experts' actions, in the order of `PolicyManifest.experts`; none while one is held."""
    weights: tuple[Finite, ...] = ()
    """What each of them counted for."""
    margin: Finite = 0.0
    """Learnt while the policy serves, as an action: added to their average."""
    action: Finite
    ask: Finite
    """What the guards were given: the action in servers, or the target that was held."""
    reported_demand: Servers
    told_before: Servers | None
    asks: tuple[Finite, ...]
    """The asks before, as many as the scale-down delay looks back."""
    floor: NotNegative
    scheduled: NotNegative
    moves: tuple[Move, ...]
    """What each guard in force made of the ask, in their order."""
    target: Servers


class FleetMode(Message):
    """Whether callers are told what is decided for a fleet, as an operator has said it."""

    fleet: FleetId
    shadow: bool
    """True: they are told 503 and why, unless they ask for the shadow's answer."""
    since: Utc


class FleetRecord(Message):
    """All that a fleet needs to go on from its last committed step."""

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    """The step committed last."""
    due_at: Utc
    """When that step was due; the next is due one `learning_freq` later."""
    demands: tuple[Finite, ...]
    targets: tuple[Finite, ...]
    reported_demand: Servers
    """The last demand known, as reported."""
    next_action: Finite
    """Decided after that step, asked for at the next."""
    next_policy_version: str
    next_behaviour: Behaviour | None = None
    """What that action was drawn from, if it was."""
    next_target: Servers | None = None
    """What the guards made of that action; None: what it says."""
    asks: tuple[Finite, ...] = ()
    """In servers, oldest first, as many as the guards look back."""
    adaptation: Adaptation = FRESH
    """What has been learnt of the policy of `next_policy_version` since it serves."""
    untrained_steps: Count
    """Steps that count for training, since the last job was queued."""
    lead_time: LeadTime | None = None
    """What is measured of it; None where supply is not told."""


class RecordedStep(NamedTuple):
    """A step's demand, as the trainer replays it; a row of a list in Redis."""

    step: int
    at: float
    """When the step was due, seconds since 1970."""
    demand: float
    """As reported, in servers."""
    usable: bool
    """False for a held demand: never trained on."""
    gap_steps: int
    """Steps missing before this one: histories don't reach across."""
    ask: float | None = None
    """What the policy asked for at this step, in servers, before any guard."""
    allocation: float | None = None
    """Servers up by this platform's decisions."""
    up: int | None = None
    """Servers really up, ready and allocated, where they are reported."""
    floor: float = 0.0
    """What was told after it was not to go below, as in `Transition`."""


class Champion(Message):
    """The policy that serves a fleet."""

    fleet: FleetId
    version: Label
    since: Utc
    runner_up: Label | None = None
    """The version that served before, to go back to."""


class PolicyManifest(Message):
    """`policy.json`: what an artefact is and how to check it."""

    version: Label
    fleet: FleetId
    created_at: Utc
    kind: Label = "learnt"
    """`learnt`, or the plain rule that it is, such as `rule:buffer`."""
    observation_fields: tuple[str, ...]
    history_len: Annotated[int, Field(ge=2)]
    min_servers: Servers
    max_servers: Servers
    action_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    exploration: NotNegative = 0.0
    """Standard deviation of the action, for a fleet that learns from what it does live."""
    experts: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    """What answers in the model's file, in its order, and what each counts for at first (the sum
    is 1); empty: one policy does. See `shared.core.adaptation`."""
    scores: dict[str, float]
    """Figures of the training, by name; costs in servers per step."""
    trained_on_steps: Count
    seed: int
    sha256: dict[str, str]
    """Hex digest of every other file of the artefact, by its path inside it."""

    @classmethod
    def draft(cls, parameters: FleetParameters, **fields: Any) -> Self:
        """Of a policy for a fleet with these parameters, whose files are yet to be written.

        `fields` are `version`, `fleet`, `created_at`, and what else is known.
        """
        return cls(
            **{
                "observation_fields": parameters.observation_fields,
                "history_len": parameters.history_len,
                "min_servers": parameters.min_servers,
                "max_servers": parameters.max_servers,
                "action_factor": parameters.action_factor,
                "scores": {},
                "trained_on_steps": 0,
                "seed": 0,
                "sha256": {},
                **fields,
            }
        )

    @property
    def parameters(self) -> FleetParameters:
        """The fleet's numbers that the policy was made for; the reward is not among them."""
        return FleetParameters(
            min_servers=self.min_servers,
            max_servers=self.max_servers,
            action_factor=self.action_factor,
            history_len=self.history_len,
        )


class TrainingJob(Message):
    """The argument of a training job."""

    fleet: FleetId
    queued_at: Utc
    up_to_step: Annotated[int, Field(ge=1)]
    """Newest step of the fleet when the job was queued."""


class TrainingOutcome(Message):
    """How a training job ended, and how the gate decided: a verdict."""

    fleet: FleetId
    at: Utc
    outcome: Literal["published", "kept", "demoted", "failed"]
    """`published`: a new version serves; `kept`: the champion stays, nothing did better;
    `demoted`: the champion has lost live for long, so another serves."""
    version: Label | None = None
    """The version that serves now."""
    champion: Label | None = None
    """The version that served before."""
    runner_up: Label | None = None
    """The version that served before that one."""
    winner: Label | None = None
    """The contender that won, by its name in `costs`."""
    costs: dict[str, float] = Field(default_factory=dict)
    """What the gate found, by contender: servers per step on demand kept from all of them."""
    scored_steps: Count = 0
    live_costs: dict[str, float] = Field(default_factory=dict)
    """Servers per step since the champion serves: of what it has really had up, and of what the
    runner-up would have had up on the same demand."""
    live_steps: Count = 0
    reason: str | None = None
    """Why, where the costs of the gate don't say it."""
    error: str | None = None
    seconds: Annotated[float, Field(ge=0)]
    environment_steps: Count
    """Steps replayed."""


def utc_now() -> datetime:
    """The clock of the entry points; everything else is handed the time."""
    return datetime.now(UTC)
