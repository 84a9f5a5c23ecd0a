"""What is learnt from recorded demand, beside the best rules and a forecaster.

    python tests/bench/learning.py [folder of CSV traces] [--seconds 120 | --steps 1] [--seeds 3]

Cost per step (idle servers, and five times the missing ones) on the last 30 % of every trace,
scaled so that the 99.9th percentile of the first 70 %, which is learnt from, is 90 servers. Rules
are tuned on that part as well. Lower is better; ratios below 1 are wins. "/ rule" is to the best
of all rules in hindsight, "/ chosen" to the rule that cost least on the training part, which is
what one would run, "/ trend" to the better of buffer and trend + buffer. LightGBM needs the extra
`bench`. With `--seconds` take the machine for yourself: learning has so many, however little they
hold. With `--steps` the same seeds give the same figures, whatever else the machine does.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from services.cli.backtest import prepare
from services.cli.demand import Source, fleet_settings
from services.cli.learner import trainer
from shared.core.tuning import LIVE_RULE, RULES
from shared.learning.backtest import Case, Outcome, baselines, trained
from shared.learning.budget import Budget, TrainingOptions
from shared.settings import load_settings

TRACES = Path(__file__).parents[2].parent / "shared" / "traces"
TRAIN_FRACTION = 0.7
WIDTH = 140
EVERY_RULE = (*RULES, LIVE_RULE)
WITHOUT_CALENDAR = ("buffer", "trend_buffer")
"""What a publisher runs who knows neither yesterday nor last week."""


def best_rule(
    outcomes: dict[str, Outcome], rules: Sequence[str] = tuple(rule.name for rule in EVERY_RULE)
) -> tuple[str, float]:
    """The plain rule that cost least in the scored part, in hindsight, and its cost."""
    name = min(rules, key=lambda rule: outcomes[rule].score.cost_per_step)
    return name, outcomes[name].score.cost_per_step


def chosen_rule(outcomes: dict[str, Outcome]) -> float:
    """What the rule cost that a publisher would run: the cheapest on the training part."""
    name = min(
        (rule.name for rule in EVERY_RULE),
        key=lambda rule: outcomes[rule].chosen["training_cost"],
    )
    return outcomes[name].score.cost_per_step


def geometric_mean(ratios: list[float]) -> str:
    return f"{np.exp(np.mean(np.log(ratios))):.3f}" if ratios else ""


def print_costs(cases: dict[str, Case], ours: dict[str, list[Outcome]], console: Console) -> None:
    table = Table(title="cost per step", title_justify="left")
    for heading in ("trace", "best tuned rule", "", "LightGBM", "autopilot", "min", "max"):
        table.add_column(heading, justify="left" if heading == "trace" else "right")
    for heading in ("/ rule", "/ chosen", "/ trend", "/ LightGBM"):
        table.add_column(heading, justify="right")
    to_rule, to_chosen, to_trend, to_trees = [], [], [], []
    for name, case in cases.items():
        others, notes = baselines(case)
        for note in notes:
            console.print(f"{name}: {note}")
        rule, rule_cost = best_rule(others)
        costs = [outcome.score.cost_per_step for outcome in ours[name]]
        mean = float(np.mean(costs))
        to_rule.append(mean / rule_cost)
        to_chosen.append(mean / chosen_rule(others))
        to_trend.append(mean / best_rule(others, WITHOUT_CALENDAR)[1])
        trees = others["lightgbm"].score.cost_per_step if "lightgbm" in others else None
        if trees is not None:
            to_trees.append(mean / trees)
        table.add_row(
            name,
            rule,
            f"{rule_cost:.2f}",
            "" if trees is None else f"{trees:.2f}",
            f"{mean:.2f}",
            f"{min(costs):.2f}",
            f"{max(costs):.2f}",
            f"{to_rule[-1]:.3f}",
            f"{to_chosen[-1]:.3f}",
            f"{to_trend[-1]:.3f}",
            "" if trees is None else f"{to_trees[-1]:.3f}",
        )
    table.add_section()
    blank = [""] * 6
    means = [geometric_mean(ratios) for ratios in (to_rule, to_chosen, to_trend, to_trees)]
    table.add_row("geometric mean", *blank, *means)
    console.print(table)


def print_throughput(ours: dict[str, list[Outcome]], console: Console) -> None:
    """Of each stage, how long it took and what it went through.

    PPO replays environment steps, its learning included: so many a second of its own stage, and of
    the whole job. Hindsight draws decisions for every net, each with what it saw and met.
    """
    table = Table(title="learning, mean over seeds", title_justify="left")
    table.add_column("trace")
    for heading in (
        "PPO's steps",
        "a second",
        "of the job",
        "hindsight's",
        "a second",
        "seconds by stage",
    ):
        table.add_column(heading, justify="right")
    for name, outcomes in ours.items():
        stages: dict[str, float] = defaultdict(float)
        for outcome in outcomes:
            for stage, seconds in outcome.chosen["stage_seconds"].items():
                stages[stage] += seconds / len(outcomes)
        steps, decisions = (
            float(np.mean([outcome.chosen[figure] for outcome in outcomes]))
            for figure in ("environment_steps", "hindsight_decisions")
        )
        table.add_row(
            name,
            f"{steps:,.0f}",
            f"{steps / stages['ppo']:,.0f}",
            f"{steps / sum(stages.values()):,.0f}",
            f"{decisions:,.0f}",
            f"{decisions / (stages['hindsight'] + stages['refit']):,.0f}",
            ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items()),
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=TRACES)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--steps", type=int, help="environment steps, instead of seconds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peak-servers", type=float, default=90.0)
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.csv"))
    if not paths or arguments.seeds < 1:
        parser.error(f"{arguments.folder} has no *.csv, or --seeds is below 1")

    console = Console(width=WIDTH)
    fleet = fleet_settings(load_settings())
    cases = {}
    for path in paths:
        source = Source(path, None, peak_servers=arguments.peak_servers)
        cases[path.stem] = prepare(source, fleet, TRAIN_FRACTION, None)
    ours: dict[str, list[Outcome]] = {name: [] for name in cases}
    with trainer():
        for name, case in cases.items():
            for seed in range(arguments.seeds):
                budget = Budget(arguments.seconds, arguments.steps)
                outcome = trained(case, TrainingOptions(fleet.gamma, seed, budget))
                ours[name].append(outcome)
                console.print(f"{name}, seed {seed}: {outcome.score.cost_per_step:.3f}")
    print_costs(cases, ours, console)
    print_throughput(ours, console)


if __name__ == "__main__":
    main()
