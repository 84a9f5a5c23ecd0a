"""Decoding of what is stored in Redis: messages, and entries that are not one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import ValidationError

from shared.bus.keys import M

REASON_LENGTH = 200
"""Most characters of the reason why an entry can't be used."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An entry that is not a message, and the reason."""

    reason: str
    content: bytes


def read(message: type[M], content: bytes) -> M | Unreadable:
    """Decode a message; `Unreadable` where that fails, since a bad entry must not stop a reader."""
    try:
        return message.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = "".join(f"{part}: " for part in first["loc"])
        return Unreadable(f"{field}{first['msg']}"[:REASON_LENGTH], content)
    except Exception as error:  # noqa: BLE001 - whatever a validator trips over
        return Unreadable(reason_of(error), content)


def readable(message: type[M], content: bytes) -> M | None:
    """Decode a message; None, with an error in the log, where that fails."""
    found = read(message, content)
    if not isinstance(found, Unreadable):
        return found
    _log.error("message_unreadable", kind=message.__name__, reason=found.reason)
    return None


def reason_of(error: Exception) -> str:
    """An error as one line of at most `REASON_LENGTH` characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:REASON_LENGTH]


def entries_of(answer: Any) -> Iterator[tuple[str, str, dict[bytes, bytes]]]:
    """``(stream, id, fields)`` of each entry in a reply of XREAD or XREADGROUP, RESP2 or RESP3.

    An entry that was trimmed while it was pending in a group has no fields.
    """
    streams = answer.items() if isinstance(answer, dict) else answer or ()
    for stream, batches in streams:
        # RESP3 wraps a stream's entries once more.
        entries = (
            batches[0]
            if batches and batches[0] and isinstance(batches[0][0], list | tuple)
            else batches
        )
        for id, fields in entries:
            yield stream.decode(), id.decode(), fields
