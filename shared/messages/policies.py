"""Policies, champions, and training jobs."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from shared.core.parameters import FleetParameters
from shared.messages.base import Count, Finite, FleetId, Label, Message, NotNegative, Servers, Utc

Signature = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""Hex HMAC-SHA256 of a manifest without its signature."""


class Champion(Message):
    """The policy that serves a fleet."""

    fleet: FleetId
    version: Label
    since: Utc
    runner_up: Label | None = None
    """The champion before this one, for a rollback."""


class LobbyRule(Message):
    """What a policy of the lobby's dynamics has beside its model's forecasts."""

    numbers: dict[str, Finite]
    """The rule's, by name; see `shared.core.band_rule`."""
    horizons: tuple[Annotated[int, Field(ge=1)], ...]
    """Steps ahead that the model forecasts, in the order of its outputs."""
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    """Quantiles of each horizon, side by side."""


class PolicyManifest(Message):
    """`policy.json`: the description of an artefact, and the digests to verify it with."""

    version: Label
    fleet: FleetId
    created_at: Utc
    kind: Label = "learnt"
    """`learnt` for a trained policy, `general` for the pretrained one, or a rule: `rule:buffer`."""
    observation_fields: tuple[str, ...]
    history_len: Annotated[int, Field(ge=2)]
    min_servers: Servers
    max_servers: Servers
    action_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    exploration: NotNegative = 0.0
    """Standard deviation of sampled actions, for a fleet that learns on-policy."""
    experts: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    """Prior weights of the experts, in the order of the model's outputs; they sum to 1. Empty: a
    single expert. See `shared.core.adaptation`."""
    dynamics: Literal["notebook", "lobby"] | None = None
    """That it was trained and scored in; None: the notebook's. Costs of different dynamics are
    never compared."""
    lobby: LobbyRule | None = None
    """Where the dynamics are the lobby's."""
    scores: dict[str, float]
    """Metrics of the training and of the gate, by name; costs in servers per step."""
    trained_on_steps: Count
    seed: int
    sha256: dict[str, str]
    """Hex digest of every other file of the artefact, by its path inside it."""
    signature: Signature | None = None
    """Only where a signing key is set."""

    @classmethod
    def draft(cls, parameters: FleetParameters, **fields: Any) -> Self:
        """The manifest of a policy for a fleet with these parameters, before its files are written.

        `fields` are `version`, `fleet`, `created_at`, and others that are known.
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
        """The fleet parameters that the policy was trained for; without reward and costs."""
        return FleetParameters(
            min_servers=self.min_servers,
            max_servers=self.max_servers,
            action_factor=self.action_factor,
            history_len=self.history_len,
        )


class CheckpointManifest(Message):
    """`manifest.json` of a checkpoint that is not part of an artefact."""

    sha256: dict[str, str]
    """Hex digest of every other file, by its path inside the folder."""
    signature: Signature | None = None


class TrainingJob(Message):
    """The payload of a training job."""

    fleet: FleetId
    queued_at: Utc
    up_to_step: Annotated[int, Field(ge=1)]
    """Newest step of the fleet when the job was queued."""


class TrainingOutcome(Message):
    """The end of a training job, with the gate's decision."""

    fleet: FleetId
    at: Utc
    outcome: Literal["published", "kept", "demoted", "failed"]
    """`published`: a new version was promoted; `kept`: the champion stays, no contender was better;
    `demoted`: the champion was replaced because of its live costs."""
    version: Label | None = None
    """The champion after the job."""
    champion: Label | None = None
    """The champion before the job."""
    runner_up: Label | None = None
    """The runner-up before the job."""
    winner: Label | None = None
    """The winning contender, by its name in `costs`."""
    costs: dict[str, float] = Field(default_factory=dict)
    """Costs by contender, in servers per step, on the demand kept for the gate."""
    scored_steps: Count = 0
    live_costs: dict[str, float] = Field(default_factory=dict)
    """Servers per step since the champion serves: its own cost, and the runner-up's
    counterfactual on the same demand."""
    live_steps: Count = 0
    reason: str | None = None
    """The reason, where the gate's costs do not show it."""
    error: str | None = None
    seconds: Annotated[float, Field(ge=0)]
    environment_steps: Count
    """Environment steps replayed by PPO."""
