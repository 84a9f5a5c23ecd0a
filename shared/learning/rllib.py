"""The names of RLlib that we use; no other module imports it.

RLlib imports TensorFlow where it is installed, switches off TensorFlow 2 behaviour for the whole
process, and then checks every value for being a TensorFlow tensor, which takes 15 % of the time of
a replayed step. So that import is prevented.
"""

import logging
import os

WITHOUT_TENSORFLOW = {"RLLIB_TEST_NO_TF_IMPORT": "1"}
"""Environment variables of a process that imports RLlib: this one, its runners and learners."""
os.environ.update(WITHOUT_TENSORFLOW)
# It logs the missing TensorFlow a dozen times.
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

# Ray's loggers have handlers of their own, and warn of deprecated APIs with every module.
for _name in ("ray", "ray.rllib"):
    _logger = logging.getLogger(_name)
    _logger.handlers.clear()
    _logger.propagate = True
    _logger.setLevel(logging.ERROR)

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
