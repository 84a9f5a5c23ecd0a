"""PPO in RLlib over the replay of recorded demand."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.learning.budget import Budget, TrainingOptions
from shared.learning.models.network import ResidualModule, module_of, spec_of
from shared.learning.ppo.replay_env import make_replay
from shared.learning.rllib import DEFAULT_MODULE_ID, Algorithm, PPOConfig, register_env
from shared.recorded_demand import Recorded, decision_rows

MINIBATCH = 2_048
"""Most environment steps in one gradient."""
SMALLEST_CHANGE = 0.01
"""Lower bound of `typical_change`, as a fraction of `action_factor`."""

_ENVIRONMENT = "autopilot-replay"
_RLLIB_GYM_NAME = "rllib-single-agent-env-v0"


class PPO:
    """RLlib's PPO, and a module that holds its newest weights after each call."""

    def __init__(self, algorithm: Algorithm, module: ResidualModule) -> None:
        """PPO starts from the weights of `module`."""
        self._algorithm = algorithm
        self.module = module
        self.put()

    def put(self) -> None:
        """Copy the module's weights to the learners and the runners."""
        learners = self._algorithm.learner_group
        learners.set_weights({DEFAULT_MODULE_ID: self.module.get_state()})
        self._algorithm.env_runner_group.sync_weights(
            from_worker_or_learner_group=learners, inference_only=True
        )

    def iterate(self) -> dict[str, Any]:
        """Make one training iteration. Returns RLlib's result of it."""
        result: dict[str, Any] = self._algorithm.train()
        self.module.set_state(self._algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID])
        return result

    def save(self, checkpoint: Path) -> None:
        """Write RLlib's checkpoint of the module's weights."""
        self.put()
        self._algorithm.save_to_path(str(checkpoint.absolute()))


@contextmanager
def ppo_on(
    recorded: Recorded,
    parameters: FleetParameters,
    options: TrainingOptions,
    module: ResidualModule,
) -> Iterator[PPO]:
    """PPO over the replay of recorded demand, from a module's weights; stopped after the block.

    Ray must be running.
    """
    algorithm = _build(recorded, parameters, options)
    logs = algorithm.logdir
    try:
        yield PPO(algorithm, module)
    finally:
        algorithm.stop()
        # Ray Tune makes a folder for each algorithm.
        shutil.rmtree(logs, ignore_errors=True)


def build_once() -> None:
    """Build an algorithm and discard it: the first one in a process takes seconds longer."""
    history = History(np.arange(32.0), np.linspace(11.0, 12.0, 32), 1.0)
    parameters = FleetParameters()
    options = TrainingOptions(gamma=0.9, seed=0, budget=Budget(seconds=1.0))
    with ppo_on(Recorded.unbroken(history), parameters, options, module_of(parameters, seed=0)):
        pass


def _build(recorded: Recorded, parameters: FleetParameters, options: TrainingOptions) -> Algorithm:
    """PPO's algorithm. Runners and learners are Ray actors; with 0 of them, in this process."""
    budget = options.budget
    register_env(_ENVIRONMENT, make_replay)
    # RLlib registers every environment under this name; Gymnasium warns about the second.
    gym.registry.pop(_RLLIB_GYM_NAME, None)
    config = (
        PPOConfig()
        .environment(
            _ENVIRONMENT,
            env_config={
                "recorded": recorded,
                "parameters": parameters,
                # Rewards of about 1: the error of requesting the last demand is one unit.
                "reward_scale": 1.0 / typical_change(recorded, parameters),
            },
            # The module's actions are in the environment's units, and the environment clips them.
            normalize_actions=False,
            clip_actions=False,
        )
        .env_runners(
            num_env_runners=options.num_env_runners,
            num_envs_per_env_runner=budget.environments,
            gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
        )
        .learners(num_learners=options.num_learners)
        .training(
            gamma=options.gamma,
            # Generalised advantage estimation: the reward of an action comes five steps later, so
            # credit has to reach far back.
            lambda_=0.95,
            # Decays over the budget.
            lr=[[0, 1e-4], [budget.ppo_steps, 1e-6]],
            # By default 64 steps of 256 fleets, two epochs in minibatches of 2,048.
            train_batch_size_per_learner=budget.batch,
            minibatch_size=min(MINIBATCH, budget.batch),
            num_epochs=2,
            # The value's gradient is large at first; unclipped it dominates Adam's averages.
            grad_clip=0.5,
            kl_coeff=0.2,
            # Returns reach -100 when demand jumps; RLlib's default, 10, would clip those errors.
            vf_clip_param=1e4,
        )
        .rl_module(rl_module_spec=spec_of(parameters))
        .debugging(seed=options.seed)
    )
    return config.build_algo()


def typical_change(recorded: Recorded, parameters: FleetParameters) -> float:
    """Root mean square change of demand over a lead time, in servers."""
    rows = decision_rows(recorded, parameters)
    demands = recorded.history.demands
    changes = demands[rows + parameters.lead_steps] - demands[rows]
    return max(float(np.sqrt(np.mean(changes**2))), SMALLEST_CHANGE * parameters.action_factor)
