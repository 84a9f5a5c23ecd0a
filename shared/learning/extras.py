"""The extra `trainer`: checks that it is installed, and keeps its libraries out of the logs."""

import importlib.util
import os

from shared.errors import BadInput

_QUIET = {
    # TensorFlow's C++ logs a missing GPU as an error; its Python still raises real errors.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # With oneDNN, rounding depends on the processor, and TensorFlow logs that at each start.
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "CUDA_VISIBLE_DEVICES": "-1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray overrides CUDA_VISIBLE_DEVICES of processes without a GPU, and warns of a coming change.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def quiet_libraries() -> None:
    """Set what ray and tensorflow read when they are imported, unless it is set already."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def check_trainer(what: str = "learning") -> None:
    """Raise `BadInput` if the extra `trainer`, which `what` needs, is not installed."""
    missing = [name for name in ("ray", "torch", "tensorflow") if not _installed(name)]
    if missing:
        raise BadInput(
            f"{what} needs {', '.join(missing)}: pip install 'gameserver-autopilot[trainer]'"
        )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
