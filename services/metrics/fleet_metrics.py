"""What Prometheus is told, by fleet."""

from collections.abc import Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from shared.core.recommendation import whole_servers
from shared.messages import Decision, FleetMode, Supply, TrainingOutcome, Transition
from shared.settings import Fleets


class FleetMetrics:
    """Gauges of the newest step and decision, counters since the process started."""

    def __init__(self, registry: CollectorRegistry, fleets: Fleets, started_at: datetime) -> None:
        self._gauges: list[Gauge] = []

        def gauge(name: str, documentation: str) -> Gauge:
            made = Gauge(f"autopilot_{name}", documentation, ("fleet",), registry=registry)
            self._gauges.append(made)
            return made

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            name = f"autopilot_{name}"
            return Counter(name, documentation, ("fleet", *labels), registry=registry)

        self._fleets = fleets
        self._started_at = started_at
        self._demand = gauge("demand", "Game servers needed, within the fleet's limits")
        self._reported = gauge("reported_demand", "Game servers needed, as reported")
        self._target = gauge("target", "Game servers asked for at the newest step")
        self._allocation = gauge("allocation", "Game servers that are up")
        self._allocated = gauge("allocated_servers", "Game servers in use, as they are told")
        self._ready = gauge("ready_servers", "Game servers without players, as they are told")
        self._lead_time = gauge(
            "lead_time_seconds", "From a raised target to the servers, as measured"
        )
        self._assumed_lead_time = gauge(
            "assumed_lead_time_seconds", "The same, as the environment assumes"
        )
        self._reward = gauge("reward", "Reward of the newest step")
        self._recommended = gauge(
            "recommended_servers", "Whole game servers that the newest decision asks for"
        )
        self._in_shadow = gauge("in_shadow", "1 where nobody is to follow the fleet yet")
        self._shadow: dict[str, bool] = {}
        self._steps = counter("steps", "Steps committed")
        self._stale = counter("stale_steps", "Steps without fresh demand")
        self._gaps = counter("gap_steps", "Steps that were due and did not happen")
        self._unserved = counter(
            "unserved_server_steps", "Game servers missing, summed over steps with fresh demand"
        )
        self._idle = counter(
            "idle_server_steps", "Game servers to spare, summed over steps with fresh demand"
        )
        self._trainings = counter("trainings", "Training jobs ended", "outcome")
        self._training_seconds = counter("training_seconds", "Time spent in training jobs")
        self._training_steps = counter(
            "training_environment_steps", "Environment steps replayed in training jobs"
        )
        self._newest_training: dict[str, datetime] = {}

    def forget(self) -> None:
        """Show no fleet any more: another process goes on. Counters stay what they are."""
        for gauge in self._gauges:
            gauge.clear()

    async def record_transitions(self, transitions: Sequence[Transition]) -> None:
        """Count steps, oldest first, and show the newest of each fleet.

        Handed one at a time a step that raises has not been counted: what can raise comes first.
        """
        for transition in transitions:
            self._record_step(transition)

    def _record_step(self, step: Transition) -> None:
        fleet = step.fleet
        surplus = 0.0 if step.stale else step.allocation - step.reported_demand
        self._show_supply(step)
        self._demand.labels(fleet).set(step.demand)
        self._reported.labels(fleet).set(step.reported_demand)
        self._target.labels(fleet).set(step.target)
        self._allocation.labels(fleet).set(step.allocation)
        self._reward.labels(fleet).set(step.reward)
        self._steps.labels(fleet).inc()
        # A counter that is there from the first step on shows its first increase.
        self._stale.labels(fleet).inc(step.stale)
        self._gaps.labels(fleet).inc(step.gap_steps)
        self._idle.labels(fleet).inc(max(surplus, 0.0))
        self._unserved.labels(fleet).inc(max(-surplus, 0.0))

    def _show_supply(self, step: Transition) -> None:
        """What is not told any more is not shown: an old count would look like a new one."""
        counts = step.supply or Supply()
        for gauge, count in ((self._allocated, counts.allocated), (self._ready, counts.ready)):
            if count is not None:
                gauge.labels(step.fleet).set(count)
            else:
                gauge.remove(step.fleet)
        if step.lead_times is not None:
            self._lead_time.labels(step.fleet).set(step.lead_times.measured_s)
            self._assumed_lead_time.labels(step.fleet).set(step.lead_times.assumed_s)

    def record_decision(self, decision: Decision) -> None:
        """Show what a configured fleet is told to have; Redis keeps decisions of others too."""
        settings = self._fleets.by_name.get(decision.fleet)
        if settings is not None:
            servers = whole_servers(decision.target, settings.parameters)
            self._recommended.labels(decision.fleet).set(servers)
            shadow = self._shadow.get(decision.fleet, settings.shadow)
            self._in_shadow.labels(decision.fleet).set(shadow)

    def record_mode(self, mode: FleetMode) -> None:
        """Show which fleets are in shadow; a command counts for more than the settings."""
        self._shadow[mode.fleet] = mode.shadow
        if mode.fleet in self._fleets.by_name:
            self._in_shadow.labels(mode.fleet).set(mode.shadow)

    def record_training(self, training: TrainingOutcome) -> None:
        """Count a training job once; those that ended before the process started don't count."""
        if training.at <= self._newest_training.get(training.fleet, self._started_at):
            return
        self._newest_training[training.fleet] = training.at
        self._trainings.labels(training.fleet, training.outcome).inc()
        self._training_seconds.labels(training.fleet).inc(training.seconds)
        self._training_steps.labels(training.fleet).inc(training.environment_steps)
