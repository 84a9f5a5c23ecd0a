"""What costs seconds once and not every job: Ray, and RLlib's first algorithm."""

import logging
import os
import signal

import ray
import torch

from shared.learning.ppo.algorithm import build_once
from shared.learning.rllib import WITHOUT_TENSORFLOW

RAY_CPUS = 1
"""The runner and the learner are in this process; Ray itself needs room for next to nothing."""
OBJECT_STORE_BYTES = 100_000_000
"""Weights and metrics of nets this small fit many times; Ray's least is 75 MB."""
TORCH_THREADS = 1
"""A net this small is not faster on more, and the services need the other core."""


def start_ray() -> None:
    """Start Ray (or join the cluster that `RAY_ADDRESS` names) and build an algorithm once."""
    torch.set_num_threads(TORCH_THREADS)
    # Ray's loggers print past ours, and greet every new algorithm with hints about old APIs.
    for name in ("ray", "ray.rllib"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.ERROR)
    own = (
        {}
        if "RAY_ADDRESS" in os.environ
        else {
            "address": "local",  # never a cluster that somebody else left running here
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
    # Ray's own prints a stack trace of its C++, and aborts.
    signal.signal(signal.SIGTERM, handler)
    build_once()


def stop_ray() -> None:
    """Stop the Ray that `start_ray` started."""
    ray.shutdown()
