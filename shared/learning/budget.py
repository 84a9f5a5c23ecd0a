"""The budget of one training run, and its options."""

from dataclasses import dataclass

STEPS_PER_SECOND = 10_000
"""Environment steps that PPO replays and learns from in a second on one core, roughly."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A training budget, in time or in counts; with counts, the same seed makes the same policy."""

    seconds: float
    """Wall-clock time; ignored where `steps` is given."""
    steps: int | None = None
    """Environment steps for PPO to replay, rounded up to whole batches."""
    hindsight_updates: int = 2_000
    """Most gradient updates of a hindsight fit where `steps` is given."""
    batch: int = 16_384
    """Environment steps of one PPO iteration."""
    environments: int = 256
    """Fleets replayed by each runner, vectorised: a step takes hardly longer with more of them."""

    @property
    def timed(self) -> bool:
        """Whether training ends by the clock."""
        return self.steps is None

    @property
    def ppo_steps(self) -> int:
        """Environment steps over which PPO's learning rate decays."""
        if self.steps is not None:
            return self.steps
        return max(int(STEPS_PER_SECOND * self.seconds), 1)


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Budget, discount, seed and Ray actors of one training run."""

    gamma: float
    """Discount factor per step."""
    seed: int
    budget: Budget
    num_env_runners: int = 0
    """Ray actors that replay demand; 0: this process."""
    num_learners: int = 0
    """Ray actors that learn; 0: this process."""
