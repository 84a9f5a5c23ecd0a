"""What one training run may take, and the settings of its learners."""

from dataclasses import dataclass

STEPS_PER_SECOND = 10_000
"""About what PPO replays and learns on one core."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much to learn: by the clock, or by counts, which make the same policy again."""

    seconds: float
    """Of wall-clock time; without a meaning where `steps` are given."""
    steps: int | None = None
    """Environment steps for PPO to replay, rounded up to whole batches."""
    hindsight_updates: int = 2_000
    """Most updates of a hindsight fit that is not timed."""
    batch: int = 16_384
    """Environment steps of one PPO iteration."""
    environments: int = 256
    """Replayed fleets in a runner: what a step costs hardly depends on how many there are."""

    @property
    def timed(self) -> bool:
        """Whether learning ends by the clock."""
        return self.steps is None

    @property
    def ppo_steps(self) -> int:
        """Environment steps over which PPO's learning rate falls."""
        if self.steps is not None:
            return self.steps
        return max(int(STEPS_PER_SECOND * self.seconds), 1)


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How long to learn, how far ahead to look, from which seed, on how many Ray actors."""

    gamma: float
    """Discount of later rewards, a step."""
    seed: int
    budget: Budget
    num_env_runners: int = 0
    """Ray actors that replay demand; 0: this process."""
    num_learners: int = 0
    """Ray actors that learn; 0: this process."""
