"""Structured logs: events with fields, JSON when not on a terminal."""

import logging
import sys
from typing import Any

import structlog

_SHARED_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logs(service: str, log_format: str, level: str) -> None:
    """Send this process's logs, libraries' included, to standard error, with its service name."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(columns=_columns())
        if console
        else structlog.processors.JSONRenderer()
    )
    errors = [] if console else [structlog.processors.format_exc_info]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED_PROCESSORS, _naming(service)],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *errors,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "botocore", "urllib3", "asyncio", "rq", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
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


def _columns() -> list[structlog.dev.Column]:
    """Time, service, level, event, then the fields: aligned, so that services read together."""

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
