"""Keep the libraries' C++ out of the logs."""

import os

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
