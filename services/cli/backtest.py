"""`autopilot backtest`: recorded demand prepared for it, and a policy's folder replayed."""

from dataclasses import replace
from pathlib import Path

from services.cli.artefacts import check_history_len, load_artefact
from services.cli.demand import Source
from shared.core.arrays import FloatArray
from shared.core.replay import decide
from shared.errors import BadInput
from shared.learning.backtest import Case, Outcome, parameters_for
from shared.messages import PolicyManifest
from shared.policies.runtime import FleetPolicy, LearntPolicy
from shared.settings import FleetSettings, Settings


def prepare(
    source: Source, fleet: FleetSettings, train_fraction: float, history_len: int | None
) -> Case:
    """Read, split, and find the limits. Raises `BadInput`."""
    if not 0 < train_fraction < 1:
        raise BadInput(f"--train-fraction is {train_fraction:g}: give a number between 0 and 1")
    demand = source.read(fleet, train_fraction)
    rows = len(demand.history.demands)
    start = int(train_fraction * rows)
    parameters = parameters_for(demand, max(start, 1), fleet, history_len)
    # A decision of the training part has to see a history and to meet its demand.
    least = parameters.history_len + parameters.lead_steps
    if start < least or start == rows:
        raise BadInput(
            f"{demand.name} has {rows} rows, {start} of them to learn from, and a lead time of "
            f"{parameters.history_len} steps needs {least}: give a longer trace"
        )
    return Case(demand, start, parameters)


def for_policy(case: Case, manifest: PolicyManifest, history_len: int | None) -> Case:
    """The same demand with the lead time and the action factor that a policy was trained for."""
    check_history_len(manifest, history_len)
    parameters = replace(
        case.parameters,
        history_len=manifest.history_len,
        action_factor=manifest.action_factor,
    )
    return replace(case, parameters=parameters)


def replayed(
    case: Case, folder: Path, history_len: int | None, settings: Settings
) -> tuple[Case, Outcome]:
    """A policy artefact over the whole series, and the case as the policy needs it."""
    policy = load_artefact(folder, settings)
    case = for_policy(case, policy.manifest, history_len)
    return case, case.outcome(decisions_of(case, policy), version=policy.version)


def decisions_of(case: Case, policy: LearntPolicy) -> FloatArray:
    """What a policy artefact requests after each row, in servers."""
    served = FleetPolicy(policy.manifest, case.parameters, lambda: policy)
    return decide(served, case.history, case.parameters, since=case.first_decision)
