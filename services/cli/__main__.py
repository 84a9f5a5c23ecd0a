"""The command line, `autopilot`."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services.cli import learning_commands
from services.cli.dead_letters import list_dead_letters
from services.cli.export import export_policy
from services.cli.fleets import list_fleets, set_mode
from services.cli.interrupts import Interrupted
from services.cli.output import print_text
from services.cli.play import Matchmaker, sine_demands, trace_demands
from services.cli.policies import list_policies, promote, retire, rollback, show_policy, sign
from services.cli.up import DEMO_STEPS_PER_SECOND, Platform, Playing
from shared.bus import DEAD_LETTERS_LENGTH, RECORDED_STEPS
from shared.entry import EXIT_BAD_INPUT, ending_at_once
from shared.errors import AutopilotError, BadInput, PolicyMissing, PolicyUnfit, UnknownFleet
from shared.http.access import tokens_of
from shared.logs import configure_logs, tell_uncaught_errors
from shared.messages import utc_now
from shared.redaction import redact, traceback_of
from shared.redis_address import URL_FILE
from shared.settings import load_fleets, load_settings

app = typer.Typer(
    help="Learns, online, how many game servers to have before the players arrive.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
policies = typer.Typer(help="Policy versions, their scores, champions.", no_args_is_help=True)
app.add_typer(policies, name="policies")
fleets = typer.Typer(help="Fleets and their modes, live or shadow.", no_args_is_help=True)
app.add_typer(fleets, name="fleets")

STATE = URL_FILE.parent
WIDE_COLUMNS = 200
USERS_MISTAKES = (BadInput, UnknownFleet, PolicyMissing, PolicyUnfit)

TraceOption = Annotated[
    Path | None, typer.Option(help="CSV with the columns timestamp and demand.")
]
PlayersPerServer = Annotated[float, typer.Option(help="The trace's demand that one server takes.")]
FleetOption = Annotated[str, typer.Option(help="The policy's fleet.")]
Speed = Annotated[float | None, typer.Option(help="Steps per second.", min=0.001, max=1000)]


@app.command()
def up(
    trace: TraceOption = None,
    players_per_server: PlayersPerServer = 1.0,
    speed: Speed = None,
    play: Annotated[
        bool, typer.Option(help="Play demand (the trace, or the notebook's sine).")
    ] = True,
) -> None:
    """Run the whole platform on this machine; Ctrl-C stops everything.

    With --no-play your own matchmaker posts demand, and the pace is AUTOPILOT_LEARNING_FREQ.
    """
    settings = load_settings()
    fleets = load_fleets(settings)
    playing = None
    if play:
        playing = Playing(trace, players_per_server, speed or DEMO_STEPS_PER_SECOND)
        playing.check()
    elif trace is not None or speed is not None:
        raise BadInput("--no-play excludes --trace and --speed: nothing is played")
    raise typer.Exit(Platform(settings, fleets, playing, STATE, Console()).run())


@app.command("dead-letters")
def dead_letters(
    newest: Annotated[
        int, typer.Option(help="Number of entries, the newest.", min=1, max=DEAD_LETTERS_LENGTH)
    ] = 20,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, with the content of each entry.")
    ] = False,
) -> None:
    """Entries of Redis streams that no service could process, and the reasons."""
    list_dead_letters(load_settings(), newest, Console(), as_json=as_json)


@app.command()
def play(
    trace: Annotated[Path | None, typer.Argument(help="CSV with timestamp and demand.")] = None,
    demand: Annotated[str | None, typer.Option(help="A curve instead of a trace: sine1h.")] = None,
    players_per_server: PlayersPerServer = 1.0,
    speed: Speed = None,
    in_step: Annotated[
        bool, typer.Option("--in-step", help="One demand per AUTOPILOT_LEARNING_FREQ of the fleet.")
    ] = False,
    give_way: Annotated[
        bool,
        typer.Option(
            "--give-way", help="A matchmaker's own demand takes precedence for half a DEMAND_TTL."
        ),
    ] = False,
    fleet: Annotated[str, typer.Option(help="The fleet to report for.")] = "default",
    repeat: Annotated[bool, typer.Option("--repeat", help="Start again at the end.")] = False,
    url: Annotated[str | None, typer.Option(help="Address of the matchmaking service.")] = None,
) -> None:
    """Post a trace to a running matchmaking service, one row per step."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load_settings()
    fleets = load_fleets(settings)
    configure_logs("play", settings.log_format, settings.log_level)
    if in_step and speed is not None:
        raise BadInput("give --speed or --in-step, not both")
    pace = 1 / fleets[fleet].learning_freq if in_step else speed or DEMO_STEPS_PER_SECOND
    if trace is not None and demand is None:
        demands = trace_demands(trace, players_per_server, repeat=repeat)
    elif trace is None and demand == "sine1h":
        demands = sine_demands(fleets[fleet].max_servers)
    else:
        raise BadInput("name either a TRACE or --demand sine1h")
    address = url or f"http://{settings.host}:{settings.matchmaking_port}"
    give_way_s = fleets[fleet].demand_ttl_s / 2 if give_way else 0.0
    accepted = Matchmaker(address, fleet, tokens_of(settings), give_way_s).play(demands, pace)
    print_text(Console(), redact(f"{accepted} demands accepted by {address}"))


app.command()(learning_commands.train)
app.command()(learning_commands.backtest)
app.command()(learning_commands.evaluate)


@policies.command("list")
def policies_list(
    decisions: Annotated[
        int,
        typer.Option(
            "--decisions", "--verdicts", help="Number of each fleet's gate decisions.", min=0
        ),
    ] = 10,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, with the cost of every contender.")
    ] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="All scores and reasons, in wide tables.")
    ] = False,
) -> None:
    """Versions, their costs and the best rule's; gate decisions; the state of training."""
    settings = load_settings()
    console = Console(width=WIDE_COLUMNS) if wide else Console()
    fleets = load_fleets(settings)
    list_policies(settings, fleets, decisions, console, as_json=as_json, wide=wide)


@policies.command("show")
def policies_show(version: str, fleet: FleetOption = "default") -> None:
    """A version's manifest and the gate decisions that concern it, as JSON."""
    show_policy(load_settings(), fleet, version, Console(), Console(stderr=True))


@policies.command("promote")
def policies_promote(version: str, fleet: FleetOption = "default") -> None:
    """Make a version the champion."""
    promote(load_settings(), fleet, version, utc_now(), Console())


@policies.command("rollback")
def policies_rollback(fleet: FleetOption = "default") -> None:
    """Go back to the version that served before."""
    rollback(load_settings(), fleet, utc_now(), Console())


@policies.command("retire")
def policies_retire(version: str, fleet: FleetOption = "default") -> None:
    """Delete a version that does not serve."""
    retire(load_settings(), fleet, version, Console())


@policies.command("sign")
def policies_sign(version: str, fleet: FleetOption = "default") -> None:
    """Sign a version with AUTOPILOT_SIGNING_KEY_FILE, if you know where it comes from.

    Its files are verified against its manifest first.
    """
    sign(load_settings(), fleet, version, Console())


@policies.command("export")
def policies_export(
    out: Annotated[
        Path, typer.Option(help="A new folder, or with --sagemaker a new file: model.tar.gz.")
    ],
    version: Annotated[
        str | None, typer.Argument(help="The version.", show_default="the champion")
    ] = None,
    fleet: FleetOption = "default",
    sagemaker: Annotated[
        bool,
        typer.Option(
            "--sagemaker", help="An archive for a SageMaker endpoint, ours or TensorFlow's."
        ),
    ] = False,
) -> None:
    """Copy a version's files out of the store."""
    export_policy(load_settings(), fleet, version, out, Console(), sagemaker=sagemaker)


@fleets.command("list")
def fleets_list(
    steps: Annotated[
        int,
        typer.Option(
            help="Number of steps to compute costs over, the newest.", min=1, max=RECORDED_STEPS
        ),
    ] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Every fleet: mode, policy, demand, recommended target, and costs."""
    settings = load_settings()
    configure_logs("fleets", settings.log_format, settings.log_level)
    list_fleets(settings, load_fleets(settings), steps, utc_now(), Console(), as_json=as_json)


@fleets.command("live")
def fleets_live(fleet: str) -> None:
    """Let callers get a fleet's recommendations."""
    settings = load_settings()
    set_mode(settings, load_fleets(settings), fleet, utc_now(), Console(), shadow=False)


@fleets.command("shadow")
def fleets_shadow(fleet: str) -> None:
    """Decide for a fleet and score it, while callers get 503."""
    settings = load_settings()
    set_mode(settings, load_fleets(settings), fleet, utc_now(), Console(), shadow=True)


def main() -> None:
    """`run_command` in a process of its own, which ends at once."""
    with ending_at_once():
        run_command()


def run_command() -> None:
    """Run a command; a mistake of the user is one line on standard error, and exit code 2.

    Ends with `SystemExit`.
    """
    tell_uncaught_errors()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        # Empty without a command: then the help has been printed.
        if message := " ".join(error.format_message().split()):
            _tell(f"{message} (--help says more).")
        sys.exit(error.exit_code)
    except AutopilotError as error:
        _tell(str(error))
        sys.exit(EXIT_BAD_INPUT if isinstance(error, USERS_MISTAKES) else 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _tell(f"{where}{error.strerror or error}: look at that place, and try again")
        sys.exit(EXIT_BAD_INPUT)
    except Interrupted as stopped:
        _tell(str(stopped))
        sys.exit(stopped.exit_code)
    except Exception as error:  # noqa: BLE001 - typer's own hook would print secrets
        sys.stderr.write(traceback_of(error, error.__traceback__))
        sys.exit(1)


def _tell(sentence: str) -> None:
    sys.stderr.write(redact(f"autopilot: {sentence}\n"))


if __name__ == "__main__":
    main()
