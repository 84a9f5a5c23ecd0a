"""The notebook's environment as a Gymnasium class, over the pure dynamics."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.core.arrays import FloatArray
from shared.core.curves import PEAK_FRACTION, sine1h
from shared.core.dynamics import initial_state, observe, step
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.errors import BadInput

Observation = FloatArray


class GameServerEnv(gym.Env[Observation, NDArray[np.float32]]):
    """One fleet, one episode of 301 steps, with the notebook's `env_config`.

    Keys: `min_servers`, `max_servers`, `action_factor`, `over_prov_factor`, `gs_inventory_url`;
    `cloudwatch_namespace` and `learning_freq` are accepted and ignored, since nothing here does
    I/O or sleeps. New keys: `reward` (``asymmetric`` or ``notebook``), `history_len`, and
    `demand`: demands in servers, one per step, instead of a URL.

    Observation: float64 ``(2 * history_len,)`` in servers, demands then targets, oldest first.
    Action: float32 ``(1,)``; 1.0 is a target of `action_factor` servers. The end of the episode
    is a truncation. `info` has the notebook's metrics `curr_demand`, `curr_alloc` (the new target,
    as in the notebook) and `reward`, and the true `allocation`.

    Raises `BadInput` for a URL without `demand`, for unusable demand, for unknown keys, and
    when an episode needs more demand than was given.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it so

    def __init__(self, env_config: Mapping[str, Any] | None = None) -> None:
        config = dict(env_config or {})
        demand: Sequence[float] | None = config.pop("demand", None)
        url = config.pop("gs_inventory_url", "local")
        for without_effect in ("cloudwatch_namespace", "learning_freq"):
            config.pop(without_effect, None)
        self.parameters = _parameters(config)
        if demand is None and url != "local":
            raise BadInput(
                f"GameServerEnv does no I/O, so it can't read {url!r}: pass `demand`, a sequence "
                "of demands, or gs_inventory_url='local'; the environment service steps live URLs"
            )
        self._demand = None if demand is None else _checked(demand)
        low, high = self.parameters.min_servers, self.parameters.max_servers
        size = 2 * self.parameters.history_len
        self.observation_space = gym.spaces.Box(low, high, (size,), np.float64)
        self.action_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self._state = initial_state(self.parameters)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start again at step 0 with both histories at `min_servers`; there is no randomness."""
        super().reset(seed=seed, options=options)
        self._state = initial_state(self.parameters)
        self._steps = 0
        return observe(self._state), {}

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step: set a target, meet the next demand with the allocation."""
        value = np.asarray(action, dtype=np.float64)
        if value.size != 1 or not np.isfinite(value).all():
            raise BadInput(
                f"an action is one finite number, where 1.0 is action_factor; got {action!r}"
            )
        outcome = step(self._state, value.reshape(()), self._next_demand(), self.parameters)
        self._state = outcome.state
        self._steps += 1
        reward = float(outcome.reward)
        info = {
            "curr_demand": float(outcome.demand),
            "curr_alloc": float(outcome.target),
            "reward": reward,
            "allocation": float(outcome.allocation),
        }
        return observe(self._state), reward, False, self._steps >= EPISODE_STEPS, info

    def _next_demand(self) -> float:
        if self._demand is None:
            return sine1h(self._steps + 1, PEAK_FRACTION * self.parameters.max_servers)
        if self._steps >= len(self._demand):
            raise BadInput(
                f"`demand` has {len(self._demand)} steps, and step {self._steps + 1} needs one "
                "more: call reset(), or pass a longer sequence"
            )
        return float(self._demand[self._steps])


def _parameters(config: dict[str, Any]) -> FleetParameters:
    """The notebook truncates these to whole numbers, so `reward=notebook` does too."""
    whole = ["min_servers", "max_servers", "action_factor", "history_len"]
    if config.get("reward") == "notebook":
        whole.append("over_prov_factor")
    try:
        numbers: dict[str, Any] = {k: int(v) if k in whole else v for k, v in config.items()}
        return FleetParameters(**numbers)
    except (TypeError, ValueError) as error:
        raise BadInput(f"env_config can't be used: {error}") from error


def _checked(demand: Sequence[float]) -> FloatArray:
    try:
        values = np.asarray(demand, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"`demand` must be numbers, one per step: {error}") from error
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise BadInput("`demand` must be a non-empty sequence of finite numbers, one per step")
    return values
