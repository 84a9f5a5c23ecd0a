"""The names of RLlib that the trainer uses; nobody else imports it.

RLlib imports TensorFlow where it finds it, and whoever lets it be the first to do so gets
TensorFlow with its version 2 behaviour switched off, for the whole process.
"""

import tensorflow  # noqa: F401

# isort: split
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.tune.registry import register_env

__all__ = [
    "DEFAULT_MODULE_ID",
    "Algorithm",
    "Columns",
    "LearnerGroup",
    "PPOConfig",
    "PPOTorchLearner",
    "RLModuleSpec",
    "SingleAgentEpisode",
    "TorchRLModule",
    "ValueFunctionAPI",
    "register_env",
]
