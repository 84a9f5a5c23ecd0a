"""PPO in RLlib over the replay, and what is done to its learners from outside."""

import copy
import shutil
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from services.trainer.hindsight import HindsightLearner
from services.trainer.module import ResidualModule, spec_of
from services.trainer.replay import Recorded, decision_rows, make_replay
from services.trainer.rllib import Algorithm, PPOConfig, register_env
from shared.core.observation import History
from shared.core.parameters import FleetParameters

NUM_ENVS = 256
"""Replayed fleets in the runner: what a step costs hardly depends on how many there are."""
STEPS_PER_SECOND = 10_000
"""About what PPO replays and learns on one core; the learning rate's schedule is spread by it."""
SMALLEST_MOVE = 0.01
"""Least `usual_move`, as a fraction of `action_factor`: for demand that hardly moves."""

_ENVIRONMENT = "autopilot-replay"
_RLLIB_GYM_NAME = "rllib-single-agent-env-v0"


def build(
    recorded: Recorded,
    parameters: FleetParameters,
    gamma: float,
    seconds: float,
    seed: int,
    num_env_runners: int = 0,
    num_learners: int = 0,
) -> Algorithm:
    """PPO over the replay: runners and learners are Ray actors, or with 0 in this process."""
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
                # Rewards of about 1: a decision that ignores the future misses by a unit.
                "reward_scale": 1.0 / usual_move(recorded, parameters),
            },
            # The module's action is already that of the environment, which clips it itself.
            normalize_actions=False,
            clip_actions=False,
        )
        .env_runners(
            num_env_runners=num_env_runners,
            num_envs_per_env_runner=NUM_ENVS,
            gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
        )
        .learners(num_learners=num_learners)
        .training(
            learner_class=HindsightLearner,
            gamma=gamma,
            # Generalised advantage estimation: an action is paid five steps later, so nearly
            # all of what follows has to reach it.
            lambda_=0.95,
            # Falls over the job: large steps at first, none that unsettle it at the end.
            lr=[[0, 1e-4], [max(int(STEPS_PER_SECOND * seconds), 1), 1e-6]],
            # A batch is 64 steps of 256 fleets, gone through twice in pieces of 2,048.
            train_batch_size_per_learner=16_384,
            minibatch_size=2_048,
            num_epochs=2,
            # The value's gradient is large at first; unclipped it swamps Adam's averages.
            grad_clip=0.5,
            kl_coeff=0.2,
            # Returns reach -100 when demand jumps; RLlib's 10 would cut off what they teach.
            vf_clip_param=1e4,
        )
        .rl_module(rl_module_spec=spec_of(parameters))
        .debugging(seed=seed)
    )
    return config.build_algo()


def close(algorithm: Algorithm) -> None:
    """Stop an algorithm, and remove the folder that Ray Tune makes for each."""
    logs = algorithm.logdir
    algorithm.stop()
    shutil.rmtree(logs, ignore_errors=True)


def each_learner(algorithm: Algorithm, method: str, *arguments: Any) -> Any:
    """Call a method of every learner, wherever they run; the answer of the first."""
    results = algorithm.learner_group.foreach_learner(
        lambda learner: getattr(learner, method)(*arguments)
    )
    return next(result.get() for result in results)


def copy_of_module(algorithm: Algorithm) -> ResidualModule:
    """A copy of the learner's module, to evaluate weights in and to return."""
    module: ResidualModule = copy.deepcopy(each_learner(algorithm, "own_module"))
    return module


def put_weights(algorithm: Algorithm, state: Mapping[str, Any]) -> None:
    """Put weights into the learners' modules and the runner's copy, which is inference-only."""
    each_learner(algorithm, "put_state", state)
    algorithm.env_runner_group.sync_weights(
        from_worker_or_learner_group=algorithm.learner_group, inference_only=True
    )


def build_once() -> None:
    """Build an algorithm and drop it: the first one of a process takes seconds more."""
    history = History(np.arange(32.0), np.linspace(11.0, 12.0, 32), 1.0)
    close(build(Recorded.unbroken(history), FleetParameters(), gamma=0.9, seconds=1.0, seed=0))


def usual_move(recorded: Recorded, parameters: FleetParameters) -> float:
    """How far demand moves in a lead time, root mean square, in servers."""
    rows = decision_rows(recorded, parameters)
    demands = recorded.history.demands
    moves = demands[rows + parameters.lead_steps] - demands[rows]
    return max(float(np.sqrt(np.mean(moves**2))), SMALLEST_MOVE * parameters.action_factor)
