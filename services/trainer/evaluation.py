"""How good a policy is on demand that it has not learnt from, beside the plain rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.trainer.module import ResidualModule
from shared.core.adaptation import ONE_EXPERT, actions
from shared.core.baselines import trend
from shared.core.dynamics import target_of
from shared.core.observation import Encoder, History, IntArray, notebook_fields
from shared.core.parameters import FleetParameters
from shared.core.rewards import reward_of
from shared.core.scoring import score

FloatArray = NDArray[np.float64]
Decide = Callable[[FloatArray], NDArray[np.floating[Any]]]
"""A policy as a function: observations ``(rows, fields)`` to actions ``(rows, experts)``."""


class Seeing(Protocol):
    """A policy for many rows at once, and the fields that it sees."""

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def experts(self) -> Mapping[str, float]:
        """What answers, and counts for at first; empty: it answers alone."""
        ...

    def decide(self, observations: Any) -> NDArray[np.floating[Any]]: ...


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a policy did on held-out demand; servers per step."""

    steps: int
    reward: float
    """Mean reward per step, by the fleet's own reward."""
    cost: float
    """Mean cost per step, by the one scoring function."""


def targets_after(
    decide: Decide, history: History, parameters: FleetParameters, rows: IntArray
) -> FloatArray:
    """What a policy of one expert, which does not adapt, asks for after each row, in servers.

    Shape ``(len(rows),)``. All at once, since a policy does not read what it asked for before:
    the target fields of its observations are NaN here.
    """
    observations = observations_after(history, parameters, rows)
    return target_of(decide(observations)[:, 0], parameters)


def targets_of(
    policy: Seeing,
    history: History,
    parameters: FleetParameters,
    rows: IntArray,
    since: int = 0,
) -> FloatArray:
    """The target chosen after each row, in servers, by a policy that serves from `since` on.

    It adapts to what it meets from then on; before, and by itself, it is as it was learnt. It may
    see the notebook's numbers or the calendar's.
    """
    notebook = policy.fields == notebook_fields(parameters.history_len)
    seen = replace(parameters, observation="notebook" if notebook else "calendar")
    answers = policy.decide(observations_after(history, seen, rows)).astype(np.float64)
    demands = np.clip(history.demands, parameters.min_servers, parameters.max_servers)
    prior = prior_of(policy)
    return target_of(actions(answers, demands, rows, prior, parameters, since), parameters)


def prior_of(policy: Seeing) -> tuple[float, ...]:
    """What each answer of a policy counts for at first."""
    return tuple(policy.experts.values()) or ONE_EXPERT


def observations_after(history: History, parameters: FleetParameters, rows: IntArray) -> FloatArray:
    """What is seen after each row, NaN for targets, shape ``(len(rows), fields)``."""
    low, high = parameters.min_servers, parameters.max_servers
    seen = History(history.times, np.clip(history.demands, low, high), history.step_seconds)
    encoder = Encoder(parameters.observation_fields, parameters.lead_steps)
    no_targets = np.full((len(rows), parameters.history_len), np.nan)
    return encoder.observations(encoder.encode(seen, rows), no_targets)


def evaluate(
    targets: FloatArray, history: History, parameters: FleetParameters, rows: IntArray
) -> HeldOut | None:
    """Score targets chosen after `rows` on the demand that they meet; None without any."""
    if not len(rows):
        return None
    low, high = parameters.min_servers, parameters.max_servers
    met = np.clip(history.demands[rows + parameters.lead_steps], low, high)
    scored = score(targets, met, parameters.over_prov_factor)
    reward = float(reward_of(targets, met, parameters).mean())
    return HeldOut(steps=scored.steps, reward=reward, cost=scored.cost_per_step)


def evaluate_rule(history: History, parameters: FleetParameters, rows: IntArray) -> HeldOut | None:
    """The plain rule on the same decisions."""
    window = rows[:, np.newaxis] + np.arange(1 - parameters.history_len, 1)
    return evaluate(trend(history.demands[window], parameters), history, parameters, rows)


class BestSoFar:
    """Keeps the weights that did best on held-out demand: early stopping, by mean reward.

    Further learning on a little history goes on to fit its noise. Without held-out decisions the
    newest weights count as the best.
    """

    def __init__(self, history: History, parameters: FleetParameters, rows: IntArray) -> None:
        self._history = history
        self._parameters = parameters
        self._rows = rows
        self._observations = observations_after(history, parameters, rows).astype(np.float32)
        self._state: Mapping[str, Any] | None = None
        self.held_out: HeldOut | None = None
        """Of the best weights."""

    def consider(self, module: ResidualModule) -> HeldOut | None:
        """Evaluate a module as it is now, and keep its weights if they are the best."""
        targets = target_of(module.decide(self._observations)[:, 0], self._parameters)
        held_out = evaluate(targets, self._history, self._parameters, self._rows)
        if (
            held_out is None
            or self.held_out is None
            or held_out.reward > self.held_out.reward
            or not np.isfinite(self.held_out.reward)
        ):
            self.held_out = held_out
            self._state = {name: value.copy() for name, value in module.get_state().items()}
        return held_out

    @property
    def empty(self) -> bool:
        """Nothing was considered yet."""
        return self._state is None

    @property
    def state(self) -> Mapping[str, Any]:
        """The best weights."""
        assert self._state is not None, "consider() comes before the best"
        return self._state
