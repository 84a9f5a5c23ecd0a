"""How every process starts and ends: settings, logs, one clear line when a setting is wrong."""

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import BadInput
from shared.logs import configure_logs, tell_uncaught_errors
from shared.redaction import redact
from shared.settings import Fleets, Settings, load_fleets, load_settings

EXIT_BAD_INPUT = 2


def run_service(service: str, main: Callable[[Settings, Fleets], None]) -> None:
    """Read the settings, configure logs, run `main`; a wrong setting ends with exit code 2."""
    tell_uncaught_errors()
    try:
        settings = load_settings()
        fleets = load_fleets(settings)
        configure_logs(service, settings.log_format, settings.log_level)
        main(settings, fleets)
    except BadInput as error:
        sys.stderr.write(redact(f"{service}: {error}\n"))
        sys.exit(EXIT_BAD_INPUT)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """The process ends with the block, by the exit code that the block ends with.

    What is registered for the end of a process is done. The interpreter is then not taken down,
    once torch is loaded: with ray and tensorflow that takes seconds, and leaves nothing undone.
    """
    code = 0
    try:
        yield
    except SystemExit as ended:
        if "torch" not in sys.modules:
            raise
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(*sys.exc_info())
        code = 1
    if "torch" not in sys.modules:
        sys.exit(code)
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no public name for it
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
