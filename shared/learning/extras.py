"""The extra `trainer`: whether it is installed, and its libraries kept out of the logs."""

import importlib.util
import os

from shared.errors import BadInput

_QUIET = {
    # TensorFlow's C++ reports the missing GPU as an error; its Python still raises what matters.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Else it depends on the processor how TensorFlow rounds, and it says so at each start.
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "CUDA_VISIBLE_DEVICES": "-1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray rewrites CUDA_VISIBLE_DEVICES of processes without a GPU, and warns that it will stop.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def quiet_libraries() -> None:
    """Set what ray and tensorflow read when they are imported, unless it is set already."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def check_trainer(what: str = "learning") -> None:
    """Raise `BadInput` when the extra `trainer`, which `what` needs, is not installed."""
    missing = [name for name in ("ray", "torch", "tensorflow") if not _installed(name)]
    if missing:
        raise BadInput(
            f"{what} needs {', '.join(missing)}: pip install 'gameserver-autopilot[trainer]'"
        )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
