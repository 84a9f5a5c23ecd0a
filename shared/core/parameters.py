"""The parameters of a fleet's environment."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from shared.core.arrays import FloatArray
from shared.core.fields import calendar_fields, notebook_fields
from shared.errors import BadSetting

RewardName = Literal["asymmetric", "notebook"]
ObservationName = Literal["notebook", "calendar"]

EPISODE_STEPS = 301
"""Steps in an episode, as in the notebook."""


@dataclass(frozen=True, slots=True)
class FleetParameters:
    """How one fleet behaves and is scored; in game servers and steps.

    Raises `BadSetting` for numbers that contradict each other.
    """

    min_servers: float = 10.0
    max_servers: float = 100.0
    action_factor: float = 100.0
    """Servers that an action of 1.0 means."""
    over_prov_factor: float = 5.0
    """Underage cost of one missing server, in idle servers (the notebook's name for it)."""
    history_len: int = 5
    """Steps that a server takes to come up; also the length of both histories."""
    reward: RewardName = "asymmetric"
    observation: ObservationName = "notebook"
    """The policy's observation: the notebook's, or a longer history and the calendar."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_servers <= self.max_servers < float("inf"):
            raise BadSetting(
                f"min_servers {self.min_servers:g} and max_servers {self.max_servers:g} are "
                "not a range: set 0 <= MIN_SERVERS <= MAX_SERVERS"
            )
        if not 0 < self.action_factor < float("inf"):
            raise BadSetting(f"action_factor is {self.action_factor:g}: set ACTION_FACTOR above 0")
        if not 0 <= self.over_prov_factor < float("inf"):
            raise BadSetting(
                f"over_prov_factor is {self.over_prov_factor:g}: set OVER_PROV_FACTOR to 0 or more"
            )
        if self.history_len < 2:
            raise BadSetting(f"history_len is {self.history_len}: set HISTORY_LEN to 2 or more")
        if self.reward not in ("asymmetric", "notebook"):
            raise BadSetting(f"reward is {self.reward!r}: set REWARD to asymmetric or notebook")
        if self.observation not in ("notebook", "calendar"):
            raise BadSetting(
                f"observation is {self.observation!r}: set OBSERVATION to notebook or calendar"
            )

    def within_limits(self, servers: ArrayLike) -> FloatArray:
        """Servers brought to the fleet's limits, elementwise."""
        return np.clip(np.asarray(servers, dtype=np.float64), self.min_servers, self.max_servers)

    def one_within_limits(self, servers: float) -> float:
        """`within_limits` of one number, at a tenth of the time."""
        return min(max(servers, self.min_servers), self.max_servers)

    @property
    def highest_action(self) -> float:
        """The action of a target of `max_servers`, and at least the notebook's 1.0."""
        return max(1.0, self.max_servers / self.action_factor)

    @property
    def lead_steps(self) -> int:
        """Steps from the last demand that a decision observes to the demand that it meets."""
        return self.history_len + 1

    @property
    def critical_fractile(self) -> float:
        """The quantile of demand at which a target has the least expected cost.

        The newsvendor's: underage cost over underage plus overage cost, which is 1 (Arrow, Harris
        and Marschak, 1951).
        """
        return self.over_prov_factor / (1.0 + self.over_prov_factor)

    @property
    def observation_fields(self) -> tuple[str, ...]:
        """Names of the fields of the observation of this fleet's policies, in order."""
        named = calendar_fields if self.observation == "calendar" else notebook_fields
        return named(self.history_len)
