"""Notices that C++ libraries write to standard error, past Python's logging: they are dropped."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NOTICES = (
    b"All log messages before absl::InitializeLog() is called",
    b"Could not find cuda drivers on your machine",
    b"Created TensorFlow Lite XNNPACK delegate for CPU",
)
"""Parts of lines that say nothing to an operator; no setting of TensorFlow or LiteRT hides them."""
STANDARD_ERROR = 2

_lock = threading.RLock()


@contextmanager
def library_notices_dropped() -> Iterator[None]:
    """Hold back standard error while the block runs, then write it without the notices.

    For blocks that load a library or a model, which take seconds at most and start no processes.
    """
    with _lock, tempfile.TemporaryFile() as held:
        try:
            original = os.dup(STANDARD_ERROR)
        except OSError:  # there is no standard error
            yield
            return
        _flush()
        os.dup2(held.fileno(), STANDARD_ERROR)
        try:
            yield
        finally:
            _flush()
            os.dup2(original, STANDARD_ERROR)
            os.close(original)
            held.seek(0)
            lines = [line for line in held if not any(notice in line for notice in NOTICES)]
            with open(STANDARD_ERROR, "wb", closefd=False) as error:
                error.writelines(lines)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
