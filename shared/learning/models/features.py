"""The features that a policy computes from an observation: one layout for torch and TensorFlow.

Every feature is a difference or a ratio, so that a policy generalises over levels of demand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

INPUT = "observation"
OUTPUT = "policy"
FORECAST = "forecast"
"""Input and output names of every policy's graph."""
HARMONICS = {"time_of_day": 3, "time_of_week": 2}
"""Number of sine and cosine pairs of a time: enough for a daily curve with an evening peak."""
VOLATILITIES = 1
"""Number of features for the volatility: how much demand changes relative to its level."""


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """Positions of fields in an observation, and of groups of features among the features.

    Features, in order: differences, spreads, the volatility, phases (all sines, then all cosines),
    flags.
    """

    last: int
    """The newest demand."""
    differences: tuple[tuple[int, int], ...]
    """``(of, from)``; in local units."""
    spreads: tuple[int, ...]
    """Root mean square changes; in local units."""
    average: int | None
    """The longest mean, for the level."""
    spread: int | None
    """The longest spread, for the local unit."""
    window: tuple[int, ...]
    """The demand fields, oldest first: for level and unit where those two are missing."""
    phases: tuple[tuple[int, int], ...]
    """``(field, harmonic)``."""
    flags: tuple[int, ...]
    """Fields with a feature that is 1 where they are NaN."""
    targets: tuple[int, ...]
    """The target fields: input of the value function only."""
    seasonal: tuple[int, ...]
    """Features of a day or a week ago."""
    seasonal_flags: tuple[int, ...]
    calendar: tuple[int, ...]
    """Features that are phases."""
    size: int
    """Number of features."""


def feature_layout(fields: Sequence[str], lead_steps: int) -> FeatureLayout:
    """The layout for an observation with these fields and a policy with this lead time."""
    at = {field: position for position, field in enumerate(fields)}
    last = at["demand[-1]"]
    lags = [field for field in fields if field.startswith("demand[")]
    means = [field for field in fields if field.startswith("mean[")]
    spreads = [field for field in fields if field.startswith("change[")]
    differences = [(at[field], last) for field in (*lags, *means) if at[field] != last]
    recent = len(differences)
    met = [f"{period}[+{lead_steps}]" for period in ("day_ago", "week_ago")]
    for period in ("day_ago", "week_ago"):
        of_period = [field for field in fields if field.startswith(period)]
        if of_period:
            base = at[f"{period}[+0]"]
            differences += [(at[field], base) for field in of_period if at[field] != base]
            differences.append((base, last))
    differences += [(at[field], last) for field in met if field in at]
    phases = [
        (at[field], harmonic)
        for field, highest in HARMONICS.items()
        if field in at
        for harmonic in range(1, highest + 1)
    ]
    oldest = max(lags, key=_age)
    flags = [at[field] for field in (oldest, *met) if field in at] if phases else []
    first_phase = len(differences) + len(spreads) + VOLATILITIES
    first_flag = first_phase + 2 * len(phases)
    size = first_flag + len(flags)
    return FeatureLayout(
        last=last,
        differences=tuple(differences),
        spreads=tuple(at[field] for field in spreads),
        average=at[means[-1]] if means else None,
        spread=at[spreads[-1]] if spreads else None,
        window=tuple(at[field] for field in sorted(lags, key=_age, reverse=True)),
        phases=tuple(phases),
        flags=tuple(flags),
        targets=tuple(at[field] for field in fields if field.startswith("target[")),
        seasonal=tuple(range(recent, len(differences))),
        seasonal_flags=tuple(range(first_flag + 1, size)),
        calendar=tuple(range(first_phase, first_flag)),
        size=size,
    )


def _age(field: str) -> int:
    """Of ``demand[-k]``, in rows."""
    return int(field[len("demand[-") : -1])
