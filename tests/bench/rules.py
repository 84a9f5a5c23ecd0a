"""Plain rules against each other, on recorded demand: what `trend`'s constants were chosen by.

    python tests/bench/rules.py [folder of CSV traces]

Cost per step (idle servers, and five times the missing ones), on the first 70 % of every trace,
scaled so that its 99.9th percentile is 90 servers, and on the notebook's sine1h from 10 to 90.
A target chosen after demand k meets demand k + 6. Lower is better.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from services.cli.traces import read_trace
from shared.core import rules
from shared.core.curves import sine1h
from shared.core.evaluation import score
from shared.core.parameters import FleetParameters

TRACES = Path(__file__).parents[2].parent / "shared" / "traces"
TRAINING_FRACTION = 0.7
PEAK_SERVERS = 90.0
PEAK_PERCENTILE = 99.9
SINE_STEPS = 3_000
PARAMETERS = FleetParameters(min_servers=0.0, max_servers=200.0)

Rule = Callable[[np.ndarray], np.ndarray]


def with_constants(damping: float, headroom: float, spreads: float) -> Rule:
    """`trend` itself, with other constants."""

    def rule(histories: np.ndarray) -> np.ndarray:
        with patch.multiple(
            rules, TREND_DAMPING=damping, TREND_HEADROOM=headroom, TREND_SPREADS=spreads
        ):
            return rules.trend(histories, PARAMETERS)

    return rule


RULES: dict[str, Rule] = {
    "last demand": with_constants(0.0, 0.0, 0.0),
    "headroom (a quarter)": lambda histories: rules.headroom(histories[:, -1], PARAMETERS),
    "linear trend": with_constants(1.0, 0.0, 0.0),
    "trend": lambda histories: rules.trend(histories, PARAMETERS),
}
GRID = [
    (damping, headroom, spreads)
    for damping in (0.0, 0.5, 1.0)
    for headroom in (0.0, 0.1, 0.2)
    for spreads in (0.0, 1.0, 2.0, 3.0)
]


def demands(folder: Path) -> dict[str, np.ndarray]:
    """Demand in servers to score on, by name."""
    series = {}
    for path in sorted(folder.glob("*.csv")):
        demand = read_trace(path).demand
        demand = demand[: int(len(demand) * TRAINING_FRACTION)]
        series[path.stem] = demand * PEAK_SERVERS / np.percentile(demand, PEAK_PERCENTILE)
    series["sine1h"] = np.maximum([sine1h(k, PEAK_SERVERS) for k in range(SINE_STEPS)], 10.0)
    return series


def cost(rule: Rule, demand: np.ndarray) -> float:
    """Cost per step of a rule's targets against the demands that they meet."""
    histories = sliding_window_view(demand, PARAMETERS.history_len)
    targets = rule(histories[: -PARAMETERS.lead_steps])
    return score(targets, demand[-len(targets) :], PARAMETERS.over_prov_factor).cost_per_step


def geometric_mean(costs: list[float]) -> float:
    return float(np.exp(np.mean(np.log(costs))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=TRACES)
    series = demands(parser.parse_args().folder)

    width = max(map(len, series))
    print(f"{'':{width}}  " + "  ".join(f"{name:>20}" for name in RULES))
    costs = {
        name: [cost(rule, demand) for demand in series.values()] for name, rule in RULES.items()
    }
    for row, name in enumerate(series):
        print(f"{name:{width}}  " + "  ".join(f"{costs[rule][row]:20.2f}" for rule in RULES))
    means = "  ".join(f"{geometric_mean(costs[rule]):20.2f}" for rule in RULES)
    print(f"{'geometric mean':{width}}  {means}")

    print("\ndamping  headroom  spreads  geometric mean")
    grid = {
        constants: geometric_mean([cost(with_constants(*constants), d) for d in series.values()])
        for constants in GRID
    }
    chosen = (rules.TREND_DAMPING, rules.TREND_HEADROOM, rules.TREND_SPREADS)
    for constants, mean in sorted(grid.items(), key=lambda item: item[1])[:10]:
        mark = "  <- trend" if constants == chosen else ""
        print("{:7g}  {:8g}  {:7g}".format(*constants) + f"  {mean:14.2f}{mark}")


if __name__ == "__main__":
    main()
