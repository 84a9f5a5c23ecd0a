"""Wire and run the trainer: ``python -m services.trainer``."""

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

import structlog

from shared.bus import TrainingQueue, wait_for_redis
from shared.entry import ending_at_once, run_service
from shared.errors import BusAway
from shared.learning.extras import quiet_libraries
from shared.messages import utc_now
from shared.policies.store import PolicyStore
from shared.resilience import Outage
from shared.settings import Fleets, Settings

NICENESS = 10
"""Stepping and serving have priority when cores are few."""
REDIS_PATIENCE_SECONDS = 5.0
RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


def main(settings: Settings, fleets: Fleets) -> None:
    """Start the Ray session, then work until a signal; wait while Redis is unavailable."""
    store = PolicyStore.of(settings)
    queue = TrainingQueue(settings.redis_url)
    # An error raised in the middle of an import may come out of it as another, and there is nothing
    # to close yet.
    _on_signals(os._exit)
    os.nice(NICENESS)
    quiet_libraries()
    # Not at the top: these import ray, torch and tensorflow, which read the environment.
    from services.trainer.context import Context, Stop
    from services.trainer.worker import TrainingWorker
    from shared.learning.ppo.ray_session import ray_session

    stop = Stop()
    context = Context(
        redis_url=settings.redis_url,
        store=store,
        fleets=fleets,
        save_model=settings.save_model,
        seed=settings.seed,
        clock=utc_now,
        stop=stop,
        num_env_runners=settings.num_env_runners,
        num_learners=settings.num_learners,
    )
    _on_signals(sys.exit)  # `finally` blocks run, so Ray stops as well
    with ray_session():
        _log.info("trainer_ready", fleets=len(fleets.names))
        while not stop.requested:
            # A worker replaces the signal handlers, and does not restore them.
            _on_signals(sys.exit)
            _wait_for_redis(settings.redis_url)
            try:
                with queue.reaching():
                    worker = TrainingWorker(queue, context, settings.heartbeat)
                    worker.work(logging_level="WARNING")
            except BusAway as error:
                # Redis may answer a ping and refuse the rest, so wait before the retry.
                _log.warning("redis_is_away", error=str(error))
                time.sleep(RETRY_SECONDS)


def _wait_for_redis(url: str) -> None:
    outage = Outage()
    while True:
        try:
            wait_for_redis(url, REDIS_PATIENCE_SECONDS)
        except BusAway as error:
            outage.begin(error)
            continue
        outage.end()
        return


def _on_signals(end: Callable[[int], object]) -> None:
    def ended(_: int, __: FrameType | None) -> None:
        end(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ended)


if __name__ == "__main__":
    with ending_at_once():
        run_service("trainer", main)
