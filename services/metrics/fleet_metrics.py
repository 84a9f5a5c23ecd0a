"""Prometheus metrics by fleet."""

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
        self._target = gauge("target", "Recommended target of the newest step, in game servers")
        self._allocation = gauge("allocation", "Game servers that are up")
        self._allocated = gauge("allocated_servers", "Game servers in use, as reported")
        self._ready = gauge("ready_servers", "Game servers without players, as reported")
        self._lead_time = gauge(
            "lead_time_seconds", "From a raised target to the servers, as measured"
        )
        self._assumed_lead_time = gauge(
            "assumed_lead_time_seconds", "The same, as the environment assumes"
        )
        self._reward = gauge("reward", "Reward of the newest step")
        self._recommended = gauge(
            "recommended_servers", "Whole game servers that the newest decision recommends"
        )
        self._in_shadow = gauge("in_shadow", "1 while the fleet is in shadow mode")
        self._shadow: dict[str, bool] = {}
        self._steps = counter("steps", "Steps committed")
        self._stale = counter("stale_steps", "Steps without fresh demand")
        self._gaps = counter("gap_steps", "Steps that were missed")
        self._unserved = counter(
            "unserved_server_steps", "Game servers missing, summed over steps with fresh demand"
        )
        self._idle = counter(
            "idle_server_steps", "Idle game servers, summed over steps with fresh demand"
        )
        self._trainings = counter("trainings", "Training jobs ended", "outcome")
        self._training_seconds = counter("training_seconds", "Time spent in training jobs")
        self._training_steps = counter(
            "training_environment_steps", "Environment steps replayed in training jobs"
        )
        self._newest_training: dict[str, datetime] = {}

    def forget(self) -> None:
        """Clear the gauges of all fleets: another process is the leader. Counters are kept."""
        for gauge in self._gauges:
            gauge.clear()

    async def record_transitions(self, transitions: Sequence[Transition]) -> None:
        """Count steps, oldest first, and set the gauges to the newest of each fleet.

        A step that raises was not counted, since all that can raise comes first.
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
        # Counters must exist from the first step on, else their first increase is lost.
        self._stale.labels(fleet).inc(step.stale)
        self._gaps.labels(fleet).inc(step.gap_steps)
        self._idle.labels(fleet).inc(max(surplus, 0.0))
        self._unserved.labels(fleet).inc(max(-surplus, 0.0))

    def _show_supply(self, step: Transition) -> None:
        """Set the gauges of supply; a count that is not reported any more is removed."""
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
        """Set a fleet's recommendation; ignores fleets that are not configured any more."""
        settings = self._fleets.by_name.get(decision.fleet)
        if settings is not None:
            servers = whole_servers(decision.target, settings.parameters)
            self._recommended.labels(decision.fleet).set(servers)
            shadow = self._shadow.get(decision.fleet, settings.shadow)
            self._in_shadow.labels(decision.fleet).set(shadow)

    def record_mode(self, mode: FleetMode) -> None:
        """Set a fleet's mode; an operator's command takes precedence over the settings."""
        self._shadow[mode.fleet] = mode.shadow
        if mode.fleet in self._fleets.by_name:
            self._in_shadow.labels(mode.fleet).set(mode.shadow)

    def record_training(self, training: TrainingOutcome) -> None:
        """Count a training job once; ignores jobs that ended before the process started."""
        if training.at <= self._newest_training.get(training.fleet, self._started_at):
            return
        self._newest_training[training.fleet] = training.at
        self._trainings.labels(training.fleet, training.outcome).inc()
        self._training_seconds.labels(training.fleet).inc(training.seconds)
        self._training_steps.labels(training.fleet).inc(training.environment_steps)
