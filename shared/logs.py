"""Structured logs: events with fields, JSON when not on a terminal, and never a secret."""

import logging
import sys
import threading
from types import TracebackType
from typing import Any

import structlog

from shared.redaction import redact, redacted, traceback_of

LIBRARIES = (
    "asyncio",
    "botocore",
    "httpcore",
    "httpx",
    "rq",
    "tensorflow",
    "urllib3",
    "uvicorn",
)
"""Their warnings are logged, and nothing below."""

_log = structlog.get_logger(__name__)
_SHARED_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logs(service: str, log_format: str, level: str) -> None:
    """Send this process's logs, libraries' included, to standard error, with its service name."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            columns=_columns(), exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer()
    )
    # Fields are redacted before they become JSON, which stays JSON whatever is taken out.
    lines: list[structlog.typing.Processor] = (
        [renderer, _redact_line]
        if console
        else [structlog.processors.format_exc_info, _redact_fields, renderer]
    )
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED_PROCESSORS, _naming(service)],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *lines,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            *_SHARED_PROCESSORS,
            _naming(service),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def tell_uncaught_errors() -> None:
    """Log uncaught errors without secrets, in the main thread and in others."""

    def tell(error: BaseException, trace: TracebackType | None) -> None:
        if structlog.is_configured():
            _log.critical("process_failed", exc_info=(type(error), error, trace))
        else:
            sys.stderr.write(traceback_of(error, trace))

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            tell(error, trace)

    def thread_hook(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None:
            tell(failed.exc_value, failed.exc_traceback)

    sys.excepthook = hook
    threading.excepthook = thread_hook


class _Handler(logging.StreamHandler[Any]):
    """Reports that a line could not be written, without its content."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        _, error, trace = sys.exc_info()
        if error is not None and sys.stderr is not None:
            sys.stderr.write(f"a log line of {record.name} is lost: {traceback_of(error, trace)}")


def _redact_fields(
    _: Any, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    fields: structlog.typing.EventDict = redacted(event)
    return fields


def _redact_line(_: Any, __: str, line: Any) -> Any:
    return redact(line)


def _columns() -> list[structlog.dev.Column]:
    """Time, service, level, event, then the fields; aligned over all services."""

    def column(key: str, width: int = 0, cut: slice = slice(None)) -> structlog.dev.Column:
        plain = structlog.dev.KeyValueColumnFormatter(
            None, "", "", value_repr=lambda value: str(value)[cut].ljust(width)
        )
        return structlog.dev.Column(key, plain)

    fields = structlog.dev.KeyValueColumnFormatter("", "", "", value_repr=str)
    return [
        structlog.dev.Column("", fields),
        column("timestamp", cut=slice(11, 19)),
        column("service", 12),
        column("level", 8),
        column("event", 24),
    ]


def _naming(service: str) -> structlog.typing.Processor:
    def name(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("service", service)
        return event

    return name
