"""How every service starts: settings, logs, and one clear line when a setting is wrong."""

import sys
from collections.abc import Callable

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
