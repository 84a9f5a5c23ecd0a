"""The numbers that a policy may see, by name; `shared.core.observation` builds them.

| field | meaning, in servers unless it says otherwise |
|---|---|
| ``demand[-k]`` | demand of k rows ago; ``demand[-1]`` is the newest |
| ``target[-k]`` | target of k steps ago |
| ``mean[w]`` | mean demand of the last w rows |
| ``change[w]`` | root mean square of the last w changes from row to row |
| ``day_ago[+k]``, ``week_ago[+k]`` | demand k steps after this time yesterday, or a week ago |
| ``time_of_day``, ``time_of_week`` | 0 to 1, in UTC, of the demand that the decision will meet |
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LAGS = (1, 2, 3, 4, 5, 6, 7, 9, 12, 15, 18, 24, 30, 36, 48, 72)
WINDOWS = (6, 12, 48)
_TIME = "time_"


def notebook_fields(history_len: int) -> tuple[str, ...]:
    """The notebook's observation: demands, then targets, oldest first."""
    ages = range(history_len, 0, -1)
    return tuple(f"{what}[-{age}]" for what in ("demand", "target") for age in ages)


def calendar_fields(history_len: int) -> tuple[str, ...]:
    """A longer history, its variability, the calendar, and the last targets."""
    lead = history_len + 1
    ahead = (0, lead // 2, lead, lead + lead // 2, 2 * lead)
    return (
        *(f"demand[-{lag}]" for lag in LAGS),
        *(f"mean[{window}]" for window in WINDOWS),
        *(f"change[{window}]" for window in WINDOWS),
        *(f"{when}[+{steps}]" for when in ("day_ago", "week_ago") for steps in ahead),
        "time_of_day",
        "time_of_week",
        *target_fields(history_len),
    )


def forecast_fields(horizons: Sequence[int]) -> tuple[str, ...]:
    """What forecasts at these horizons see: the calendar's fields, without targets."""
    return (
        *(f"demand[-{lag}]" for lag in LAGS),
        *(f"mean[{window}]" for window in WINDOWS),
        *(f"change[{window}]" for window in WINDOWS),
        *(
            f"{when}[+{steps}]"
            for when in ("day_ago", "week_ago")
            for steps in (0, *(steps for steps in horizons if steps > 1))
        ),
        "time_of_day",
        "time_of_week",
    )


def target_fields(history_len: int) -> tuple[str, ...]:
    """The targets told, oldest first."""
    return tuple(f"target[-{age}]" for age in range(history_len, 0, -1))


def from_notebook(observation: Sequence[float], fields: Sequence[str]) -> list[float]:
    """`fields` taken from the notebook's observation by name; NaN for those that it lacks."""
    known = dict(zip(notebook_fields(len(observation) // 2), observation, strict=True))
    return [known.get(field, np.nan) for field in fields]


def in_servers(fields: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the fields are servers, shape ``(fields,)``; the others are times."""
    return np.array([not field.startswith(_TIME) for field in fields], dtype=np.bool_)
