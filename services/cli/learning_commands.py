"""The commands that train on recorded demand, or replay it: `train`, `backtest`, `evaluate`."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services.cli import learner
from services.cli.artefacts import find_artefact
from services.cli.backtest import prepare, replayed
from services.cli.demand import Source, fleet_settings
from services.cli.evaluate import episode_rewards, find_checkpoint, print_rewards, trained_for
from services.cli.files import check_new_folder
from services.cli.interrupts import interruptible
from services.cli.lobby import backtest_lobby, check_lobby, lobby_fleet
from services.cli.lobby_report import draw_lobby, print_lobby, write_lobby_decisions
from services.cli.output import print_table, print_text
from services.cli.plots import draw
from services.cli.report import print_report, write_decisions
from services.cli.report_files import Output
from shared.core.replay import BatchPolicy
from shared.errors import BadInput, BadSetting
from shared.learning.backtest import (
    AUTOPILOT,
    Case,
    Report,
    baselines,
    parameters_for,
    selection_notes,
    trained,
)
from shared.learning.budget import Budget, TrainingOptions
from shared.logs import configure_logs
from shared.messages import PolicyManifest, utc_now
from shared.policies.store_seal import SigningKey
from shared.settings import (
    LAST_SEED,
    LONGEST_TRAINING_SECONDS,
    FleetSettings,
    Settings,
    load_settings,
)


class Dynamics(StrEnum):
    """How a fleet moves from one step to the next."""

    NOTEBOOK = "notebook"
    """A target is up `history_len` steps later, up and down alike."""
    LOBBY = "lobby"
    """Players wait, busy servers stay, and servers take a varying time to start."""


SYNTHETIC = "synthetic"
"""The value of `--demand` for `train` that pretrains on synthetic demand."""

Trace = Annotated[
    Path | None, typer.Option(help="CSV with the columns timestamp and demand, one row per step.")
]
Curve = Annotated[str | None, typer.Option("--demand", help="A curve instead of a trace: sine1h.")]
PlayersPerServer = Annotated[
    float | None, typer.Option(help="The trace's demand that one server takes, by default 1.")
]
PeakServers = Annotated[
    float | None,
    typer.Option(
        help="Scale demand so that its peak is this many servers; the peak is the 99.9th "
        "percentile of the part trained on."
    ),
]
Seconds = Annotated[
    float | None, typer.Option(help="Training time, by default AUTOPILOT_TIME_TOTAL_S, 60.")
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Train for this many environment steps instead of a time, which is reproducible. "
        "Rounded up to whole PPO batches of 16,384."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Random seed, by default AUTOPILOT_SEED, 0.", min=0, max=LAST_SEED),
]
HistoryLen = Annotated[
    int | None,
    typer.Option(help="Steps until a server is up, by default AUTOPILOT_HISTORY_LEN, 5."),
]


@interruptible()
def backtest(
    trace: Trace = None,
    demand: Curve = None,
    players_per_server: PlayersPerServer = None,
    peak_servers: PeakServers = None,
    train_fraction: Annotated[float, typer.Option(help="Fraction of the rows to train on.")] = 0.7,
    dynamics: Annotated[
        Dynamics,
        typer.Option(
            help="How servers come up and go: as in the notebook, or in a lobby where players "
            "wait, busy servers stay and start-up times vary."
        ),
    ] = Dynamics.NOTEBOOK,
    lead_times: Annotated[
        Path | None,
        typer.Option(
            help="With --dynamics lobby: a CSV with a column lead_steps, a row for each scored "
            "step, instead of 16 drawn lead paths."
        ),
    ] = None,
    seconds: Seconds = None,
    steps: Steps = None,
    policy: Annotated[
        Path | None, typer.Option(help="A policy's folder, to replay it instead of training one.")
    ] = None,
    history_len: HistoryLen = None,
    seed: Seed = None,
    json: Annotated[Path | None, typer.Option(help="File for the scores, as JSON.")] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            help="File for the policy's decisions, as CSV: step, timestamp, demand, target, "
            "allocation; the first history_len allocations come from targets before them. With "
            "--dynamics lobby: all that a step did, on the first lead path."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="File for a plot, such as b.png.")] = None,
) -> None:
    """Train on the first part of recorded demand, compare all policies on the rest."""
    settings, fleet = _settings("backtest")
    output = Output(json, decisions, plot)
    output.check()
    options = _options(settings, fleet, seconds, steps, seed)
    if dynamics is Dynamics.LOBBY:
        check_lobby(fleet)
    elif lead_times is not None:
        raise BadInput("--lead-times goes with --dynamics lobby: leave it out, or give both")
    if policy is None:
        _check_replays(fleet)
    source = Source(trace, demand, players_per_server, peak_servers)
    case = prepare(source, fleet, train_fraction, history_len)
    if dynamics is Dynamics.LOBBY:
        in_lobby = backtest_lobby(case, fleet, options, lead_times, policy, history_len, settings)
        print_lobby(in_lobby, Console())
        output.write(
            in_lobby.document,
            partial(write_lobby_decisions, in_lobby),
            partial(draw_lobby, in_lobby),
        )
        return
    report = _in_notebook(case, options, policy, history_len, settings)
    print_report(report, Console())
    output.write(report.document, partial(write_decisions, report), partial(draw, report))


def _in_notebook(
    case: Case,
    options: TrainingOptions,
    policy: Path | None,
    history_len: int | None,
    settings: Settings,
) -> Report:
    """The backtest in the notebook's dynamics, of a trained policy or of one in a folder."""
    if policy is not None:
        case, outcome = replayed(case, policy, history_len, settings)
    else:
        with learner.trainer(), learner.progress_bar() as tell:
            outcome = trained(case, options, learner.reporting(options, tell))
    others, notes = baselines(case)
    notes = [*selection_notes(outcome), *notes]
    return Report(case, {AUTOPILOT: outcome, **others}, notes)


@interruptible()
def train(
    out: Annotated[Path, typer.Option(help="A new folder for the policy.")],
    trace: Trace = None,
    demand: Curve = None,
    players_per_server: PlayersPerServer = None,
    peak_servers: PeakServers = None,
    dynamics: Annotated[
        Dynamics,
        typer.Option(help="The dynamics that the policy is for, as of `backtest`."),
    ] = Dynamics.NOTEBOOK,
    seconds: Seconds = None,
    steps: Steps = None,
    history_len: HistoryLen = None,
    seed: Seed = None,
) -> None:
    """Train a policy on all of the recorded demand, and write it to a folder.

    `--demand synthetic` makes the pretrained policy, which serves fleets without a history; with
    `--dynamics lobby` the nets that training starts from.
    """
    settings, fleet = _settings("train")
    check_new_folder(out, "--out")
    key = SigningKey.of(settings.signing_key_file)
    if demand == SYNTHETIC:
        others = (trace, players_per_server, peak_servers, seconds, steps)
        if any(option is not None for option in others):
            raise BadInput(
                "--demand synthetic takes --out, --dynamics, --history-len and --seed, no others"
            )
        length = fleet.history_len if history_len is None else history_len
        chosen = settings.seed if seed is None else seed
        with learner.progress_bar() as tell:
            if dynamics is Dynamics.LOBBY:
                learner.write_pretrained_nets(out, length, chosen, tell)
                return
            manifest = learner.write_pretrained(out, length, chosen, utc_now(), tell, key)
        _print_scores(manifest, out)
        return
    if dynamics is Dynamics.LOBBY:
        check_lobby(fleet)
    options = _options(settings, fleet, seconds, steps, seed)
    _check_replays(fleet)
    recorded = Source(trace, demand, players_per_server, peak_servers).read(fleet)
    rows = len(recorded.history.demands)
    parameters = parameters_for(recorded, rows, fleet, history_len)
    least = parameters.history_len + parameters.lead_steps
    if rows < least:
        raise BadInput(
            f"{recorded.name} has {rows} rows, and a lead time of {parameters.history_len} steps "
            f"needs {least} to train on: give a longer trace"
        )
    if dynamics is Dynamics.LOBBY:
        in_lobby = lobby_fleet(recorded.history, parameters, fleet)
        with learner.progress_bar() as tell:
            manifest = learner.write_lobby_artefact(
                out, recorded.history, parameters, in_lobby, options, utc_now(), tell, key
            )
        _print_scores(manifest, out)
        return
    with learner.trainer(), learner.progress_bar() as tell:
        manifest = learner.write_artefact(
            out,
            recorded.history,
            parameters,
            options,
            utc_now(),
            tell,
            save_model=settings.save_model,
            key=key,
        )
    _print_scores(manifest, out)


def evaluate(
    policy: Annotated[
        str | None, typer.Option(help="A policy's folder, or a version in the store.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Instead, a folder with an RLlib checkpoint: a policy's checkpoint/, or a "
            "batch of .on_policy/. It is code, so its files must match its manifest."
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Load a checkpoint without a manifest. It is code, which runs as you: only "
            "if you know who wrote it.",
        ),
    ] = False,
    episodes: Annotated[int, typer.Option(help="Episodes of 301 steps.")] = 10,
    trace: Trace = None,
    demand: Curve = None,
    players_per_server: PlayersPerServer = None,
    fleet: Annotated[str, typer.Option(help="The version's fleet.")] = "default",
    seed: Seed = None,
) -> None:
    """The notebook's evaluation: mean, max and min episode reward, by default on sine1h."""
    settings, own = _settings("evaluate")
    curve = "sine1h" if trace is None and demand is None else demand
    recorded = Source(trace, curve, players_per_server).read(own)
    if (policy is None) == (checkpoint is None):
        raise BadInput("name either --policy DIR-OR-VERSION or --checkpoint DIR")
    if trust and checkpoint is None:
        raise BadInput("--trust is for --checkpoint: a policy's own files are always verified")
    found: BatchPolicy
    if checkpoint is not None:
        name = f"checkpoint {checkpoint}"
        key = SigningKey.of(settings.signing_key_file)
        found, parameters = find_checkpoint(checkpoint, own.parameters, key, trust=trust)
    else:
        assert policy is not None
        found = artefact = find_artefact(policy, fleet, settings)
        name = f"policy {artefact.version}"
        parameters = trained_for(artefact.manifest, own.parameters)
    rewards = episode_rewards(
        found, recorded, parameters, episodes, settings.seed if seed is None else seed
    )
    print_rewards(name, recorded.name, rewards, Console())


def _print_scores(manifest: PolicyManifest, out: Path) -> None:
    console = Console()
    weights = ", ".join(f"{name} {weight:.2g}" for name, weight in manifest.experts.items())
    kind = f"{manifest.kind}: {weights}" if weights else manifest.kind
    print_text(console, f"policy {manifest.version} ({kind}) in {out}")
    rows = [(name, f"{value:.4g}") for name, value in manifest.scores.items()]
    print_table(console, ("score", ""), rows, right={""})


def _settings(command: str) -> tuple[Settings, FleetSettings]:
    settings = load_settings()
    configure_logs(command, settings.log_format, settings.log_level)
    return settings, fleet_settings(settings)


def _check_replays(fleet: FleetSettings) -> None:
    """Raise `BadSetting` for on-policy learning: recorded demand has no transitions."""
    if fleet.learning == "on_policy":
        raise BadSetting(
            "AUTOPILOT_LEARNING=on_policy learns from a live fleet's transitions, and recorded "
            "demand has none: set AUTOPILOT_LEARNING=replay, or run `autopilot up` with it"
        )


def _options(
    settings: Settings,
    fleet: FleetSettings,
    seconds: float | None,
    steps: int | None,
    seed: int | None,
) -> TrainingOptions:
    time = fleet.time_total_s if seconds is None else seconds
    if not 0 < time <= LONGEST_TRAINING_SECONDS:
        most = f"{LONGEST_TRAINING_SECONDS:.0f}, a week"
        raise BadInput(f"--seconds is {time:g}: give a number above 0, at most {most}")
    if steps is not None and seconds is not None:
        raise BadInput("give --seconds or --steps, not both: learning ends by one of them")
    if steps is not None and steps < 1:
        raise BadInput(f"--steps is {steps}: give 1 or more")
    return TrainingOptions(
        fleet.gamma,
        settings.seed if seed is None else seed,
        Budget(time, steps),
        settings.num_env_runners,
        settings.num_learners,
    )
