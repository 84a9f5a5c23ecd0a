"""The Ray session of a process. It takes seconds to start, so it is shared by all training jobs."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from shared.learning.ppo.algorithm import build_once
from shared.learning.rllib import WITHOUT_TENSORFLOW
from shared.learning.threads import use_one_thread

RAY_CPUS = 1
"""By default runner and learner are in this process, so Ray runs hardly anything itself."""
OBJECT_STORE_BYTES = 100_000_000
"""More than the weights and metrics of such small nets need; Ray's minimum is 75 MB."""


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray runs in the block: started for it, or the cluster that `RAY_ADDRESS` names.

    Within another session of this process it is that one, which goes on after the block.
    """
    if ray.is_initialized():
        yield
        return
    try:
        _start()
        yield
    finally:
        ray.shutdown()


def _start() -> None:
    use_one_thread()
    own = (
        {}
        if "RAY_ADDRESS" in os.environ
        else {
            "address": "local",  # never join a cluster that happens to run on this machine
            "num_cpus": RAY_CPUS,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    )
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
        runtime_env={"env_vars": WITHOUT_TENSORFLOW},
        **own,
    )
    # Ray's own handler prints a C++ stack trace and aborts.
    signal.signal(signal.SIGTERM, handler)
    build_once()
