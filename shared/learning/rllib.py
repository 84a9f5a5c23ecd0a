"""The names of RLlib that the trainer uses; nobody else imports it.

RLlib imports TensorFlow where it finds it, with its version 2 behaviour switched off for the whole
process, and then asks of every value whether it is a tensor of it: 15 % of what a replayed step
costs. It is kept out of there.
"""

import logging
import os

WITHOUT_TENSORFLOW = {"RLLIB_TEST_NO_TF_IMPORT": "1"}
"""Environment of a process that imports RLlib: this one, and its runners and learners."""
os.environ.update(WITHOUT_TENSORFLOW)
# It says so a dozen times.
logging.getLogger("ray.rllib.utils.framework").setLevel(logging.ERROR)

# ruff: noqa: E402 - they are imported after it
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
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
    "WITHOUT_TENSORFLOW",
    "Algorithm",
    "Columns",
    "LearnerGroup",
    "PPOConfig",
    "RLModuleSpec",
    "SingleAgentEpisode",
    "TorchRLModule",
    "ValueFunctionAPI",
    "register_env",
]
