"""The numbers that define a fleet's environment."""

from dataclasses import dataclass
from typing import Literal

from shared.core.fields import calendar_fields, notebook_fields
from shared.errors import BadSetting

RewardName = Literal["asymmetric", "notebook"]
ObservationName = Literal["notebook", "calendar"]

EPISODE_STEPS = 301
"""Steps in an episode, as in the notebook."""


@dataclass(frozen=True, slots=True)
class FleetParameters:
    """How one fleet behaves and is scored; everything in game servers and steps.

    Raises `BadSetting` when the numbers contradict each other.
    """

    min_servers: float = 10.0
    max_servers: float = 100.0
    action_factor: float = 100.0
    """Servers that an action of 1.0 means."""
    over_prov_factor: float = 5.0
    """Cost of one missing server, in idle servers (the notebook's name for it)."""
    history_len: int = 5
    """Steps a server takes to come up; also the length of both histories."""
    reward: RewardName = "asymmetric"
    observation: ObservationName = "notebook"
    """What a policy sees: the notebook's numbers, or a longer history and the calendar."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_servers <= self.max_servers < float("inf"):
            raise BadSetting(
                f"min_servers {self.min_servers:g} and max_servers {self.max_servers:g} are "
                "no range: set 0 <= MIN_SERVERS <= MAX_SERVERS"
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

    @property
    def highest_action(self) -> float:
        """The notebook's 1.0, or what it takes to ask for `max_servers` where that is more."""
        return max(1.0, self.max_servers / self.action_factor)

    @property
    def lead_steps(self) -> int:
        """Steps from the last demand that a decision has seen to the demand that it meets."""
        return self.history_len + 1

    @property
    def critical_fractile(self) -> float:
        """The quantile of demand to have servers for, at which the expected cost is least.

        Underage cost over underage and overage cost, the newsvendor's (Arrow et al., 1951).
        """
        return self.over_prov_factor / (1.0 + self.over_prov_factor)

    @property
    def observation_fields(self) -> tuple[str, ...]:
        """Names of the numbers that a policy of this fleet sees, in order."""
        named = calendar_fields if self.observation == "calendar" else notebook_fields
        return named(self.history_len)
