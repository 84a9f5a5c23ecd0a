"""The lobby's dynamics: the searched rule beside tuned ones, and what each of its parts is worth.

    python -m tests.bench.lobby [folder of CSV traces] [--seed 0] [--only TRACE] [--json FILE]

The figures are costs per step on the last 30 % of every trace; lower is better. Each trace is
scaled so that the 99.9th percentile of the first 70 %, the training part, is 90 servers. A row is a
step of 65 s, servers are whole, and every lead process has 16 lead paths that were not used in
training, the same for all contenders.

Contenders: A is one quantile six steps ahead as both levels of the band; B is the tuned rule with a
fixed horizon; B+ is the rule that adapts to the observed lead time. All of them use the same
forecasts; "LightGBM" is B+ on forecasts of quantile trees instead. "knows demand" is B+ on perfect
forecasts: a lower bound on the cost that better forecasts could reach. +- is the standard error of
the ratio over the lead paths.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from services.cli.backtest import prepare
from services.cli.demand import Source, fleet_settings
from services.cli.lobby import lobby_fleet
from shared.core.forecasts import HORIZONS, LEVELS, Forecasts
from shared.core.lead_process import Kind
from shared.core.rollout import LobbyScore, scored
from shared.learning.backtest import Case
from shared.learning.budget import Budget
from shared.learning.lobby.backtest import LobbyCase, target_rules
from shared.learning.lobby.pretrained import pretrained_weights
from shared.learning.lobby.scoring import drawn_paths
from shared.learning.lobby.search import SearchBudget, Simulator, search, search_plain
from shared.learning.lobby.training import (
    ADAPTIVE,
    ONE_QUANTILE,
    TUNED,
    LobbyTraining,
    train_lobby,
)
from shared.settings import load_settings
from tests.bench.quantile_trees import trees_of

TRACES = Path(__file__).parents[2].parent / "shared" / "traces"
TRAIN_FRACTION = 0.7
WIDTH = 150
PROCESSES: tuple[Kind, ...] = ("regimes", "lognormal", "slowdown", "constant")
TEST_SEED = 1_000_003
"""Seed of the scored paths; training and selection use others."""
KNOWS = "knows demand"

Scores = dict[str, LobbyScore]


def scores_of(case: Case, made: LobbyTraining, kind: Kind, console: Console) -> Scores:
    """Scores of every contender on one lead process."""
    fleet = fleet_settings(load_settings())
    in_lobby = lobby_fleet(case.history, case.parameters, fleet)
    steps = len(case.history.demands) - case.start
    leads = drawn_paths((kind,), steps, TEST_SEED, in_lobby.usual_lead)
    on = LobbyCase(case, in_lobby, leads, TEST_SEED)
    forecasts = made.forecasts(case.history, case.parameters)
    numbers = dict(made.numbers)
    if kind == "constant":  # a lead known to be constant: both rules are searched on it
        simulator = Simulator(case.training.demands, (kind,), in_lobby)
        numbers[TUNED] = search_plain(simulator, forecasts, 0, SearchBudget())
        numbers[ADAPTIVE] = search(simulator, forecasts, numbers[TUNED], 0, SearchBudget())
    found = {name: scored(on.rolled(on.rule(one, forecasts))) for name, one in numbers.items()}
    found["serves"] = found[made.winner]
    if kind == "regimes":
        rules = {name: outcome.score for name, outcome in target_rules(on).items()}
        best = min(rules, key=lambda name: rules[name].cost_per_step)
        console.print(f"  best autoscaler's rule: {best} {rules[best].cost_per_step:.2f}")
        found["autoscaler"] = rules[best]
        known = perfect(case)
        simulator = on.simulator
        plain = search_plain(simulator, known, 0, SearchBudget(plain_rounds=12))
        sure = search(simulator, known, plain, 0, SearchBudget(rounds=16))
        found[KNOWS] = scored(on.rolled(on.rule(sure, known)))
        if importlib.util.find_spec("lightgbm") is not None:
            trees = trees_of(case)
            plain = search_plain(simulator, trees, 0, SearchBudget())
            sure = search(simulator, trees, plain, 0, SearchBudget())
            found["LightGBM"] = scored(on.rolled(on.rule(sure, trees)))
    return found


def perfect(case: Case) -> Forecasts:
    """Perfect forecasts: at every level, the demand that follows."""
    demands = case.history.demands
    ahead = np.minimum(np.arange(len(demands))[:, None] + np.array(HORIZONS), len(demands) - 1)
    known = np.repeat(demands[ahead][:, :, None], len(LEVELS), axis=2)
    return Forecasts(known, 0.03 * demands + 0.3, np.zeros(len(demands)))


def ratio(found: Scores, one: str, other: str) -> tuple[float, float]:
    """Returns (ratio of two contenders' costs, its standard error over their common paths)."""
    mine, theirs = found[one].costs, found[other].costs
    value = float(mine.mean() / theirs.mean())
    spread = float(np.std(mine - value * theirs, ddof=1) / np.sqrt(len(mine)) / theirs.mean())
    return value, spread


def print_table(kind: Kind, results: Mapping[str, Scores], console: Console) -> None:
    table = Table(title=f"{kind}: cost per step", title_justify="left")
    names = [ONE_QUANTILE, TUNED, ADAPTIVE, "serves", "autoscaler", "LightGBM", KNOWS]
    first = next(iter(results.values()))
    names = [name for name in names if name in first]
    table.add_column("trace")
    for name in (*names, "B / A", "B+ / B", "+-", "serves / A", "wait % A", "wait % B+"):
        table.add_column(name, justify="right")
    ratios: list[list[float]] = [[], [], []]
    for trace, found in results.items():
        cells = [f"{found[name].cost_per_step:.2f}" for name in names]
        pairs = ((TUNED, ONE_QUANTILE), (ADAPTIVE, TUNED), ("serves", ONE_QUANTILE))
        values = [ratio(found, *pair) for pair in pairs]
        for kept, (value, _) in zip(ratios, values, strict=True):
            kept.append(value)
        table.add_row(
            trace,
            *cells,
            f"{values[0][0]:.3f}",
            f"{values[1][0]:.3f}",
            f"{values[1][1]:.3f}",
            f"{values[2][0]:.3f}",
            f"{found[ONE_QUANTILE].matches_that_wait_pct:.1f}",
            f"{found[ADAPTIVE].matches_that_wait_pct:.1f}",
        )
    means = [f"{np.exp(np.mean(np.log(kept))):.3f}" for kept in ratios]
    table.add_section()
    blank = [""] * len(names)
    table.add_row("geometric mean", *blank, means[0], means[1], "", means[2], "", "")
    console.print(table)


def print_speed(case: Case, console: Console) -> None:
    """Print how many steps per second the search simulates, on one core."""
    fleet = fleet_settings(load_settings())
    in_lobby = lobby_fleet(case.history, case.parameters, fleet)
    simulator = Simulator(case.training.demands, ("regimes",), in_lobby)
    forecasts = perfect(case)
    rng = np.random.default_rng(0)
    numbers = np.zeros((40, 16)) + 1.0
    simulator.rule_costs(forecasts, numbers, rng)
    began = time.process_time()
    for _ in range(3):
        simulator.rule_costs(forecasts, numbers, rng)
    steps = 3 * 40 * 16 * 400
    console.print(
        f"simulator and rule: {steps / (time.process_time() - began):,.0f} steps a second"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=TRACES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a part of the traces' names")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    paths = [
        one for one in sorted(arguments.folder.glob("*.csv")) if (arguments.only or "") in one.stem
    ]
    if not paths:
        parser.error(f"{arguments.folder} has no such *.csv")
    console = Console(width=WIDTH)
    fleet = fleet_settings(load_settings())
    results: dict[Kind, dict[str, Scores]] = {kind: {} for kind in PROCESSES}
    for path in paths:
        case = prepare(Source(path, None, peak_servers=90.0), fleet, TRAIN_FRACTION, None)
        in_lobby = lobby_fleet(case.history, case.parameters, fleet)
        budget = Budget(60.0, steps=1)
        made = train_lobby(
            case.training, case.parameters, in_lobby, budget, arguments.seed, pretrained_weights()
        )
        seconds = ", ".join(f"{stage} {took:.1f}" for stage, took in made.stage_seconds.items())
        console.print(f"{path.stem}: {made.winner} serves; {seconds}")
        for kind in PROCESSES:
            results[kind][path.stem] = scores_of(case, made, kind, console)
    for kind, found in results.items():
        print_table(kind, found, console)
    print_speed(case, console)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document_of(results), indent=2) + "\n")


def document_of(results: Mapping[Kind, Mapping[str, Scores]]) -> dict[str, Any]:
    """Costs per step of each path, by lead process, trace and contender."""
    return {
        kind: {
            trace: {name: score.costs.tolist() for name, score in found.items()}
            for trace, found in by_trace.items()
        }
        for kind, by_trace in results.items()
    }


if __name__ == "__main__":
    main()
