"""Policies, who serves, and the jobs that make them."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from shared.core.parameters import FleetParameters
from shared.messages.base import Count, FleetId, Label, Message, NotNegative, Servers, Utc

Signature = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""Hex HMAC-SHA256 of a manifest without it."""


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
    signature: Signature | None = None
    """Where there is a key; left out of the file where not."""

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


class CheckpointManifest(Message):
    """`manifest.json` of a checkpoint that is not part of an artefact."""

    sha256: dict[str, str]
    """Hex digest of every other file, by its path inside the folder."""
    signature: Signature | None = None


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
