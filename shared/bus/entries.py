"""What stands on a stream, read."""

from collections.abc import Iterator
from typing import Any

import structlog
from pydantic import ValidationError

from shared.bus.keys import M

_log = structlog.get_logger(__name__)


def readable(message: type[M], content: bytes) -> M | None:
    """A message, or None for what is none: one bad entry must not stop those who read."""
    try:
        return message.model_validate_json(content)
    except ValidationError as error:
        reason = error.errors(include_input=False, include_url=False)[0]["msg"]
        _log.error("message_unreadable", kind=message.__name__, reason=reason)
        return None


def entries_of(answer: Any) -> Iterator[tuple[str, str, bytes]]:
    """Stream, id and message of what XREAD and XREADGROUP return, in RESP2 and RESP3."""
    streams = answer.items() if isinstance(answer, dict) else answer or ()
    for stream, batches in streams:
        # RESP3 wraps a stream's entries once more.
        entries = (
            batches[0]
            if batches and batches[0] and isinstance(batches[0][0], list | tuple)
            else batches
        )
        for id, fields in entries:
            # An entry that was trimmed while a group held it has no fields.
            yield stream.decode(), id.decode(), fields.get(b"message", b"")
