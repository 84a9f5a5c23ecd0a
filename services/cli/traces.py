"""Read demand traces: CSV with the columns `timestamp` (ISO 8601) and `demand`."""

import csv
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from shared.core.arrays import FloatArray
from shared.errors import BadInput, quoted

MAX_DEMAND = 1e15
"""In the trace's unit, players or requests: above it, floats are not exact to one."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Recorded demand, one row per step, in the trace's unit."""

    name: str
    timestamps: tuple[datetime, ...]
    demand: FloatArray


def read_trace(path: Path) -> Trace:
    """Read a trace; raises `BadInput` with the number of an invalid line, and the reason."""
    timestamps: list[datetime] = []
    demand: list[float] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            found = [name.strip() for name in rows.fieldnames or ()]
            rows.fieldnames = [name.casefold() for name in found]
            missing = {"timestamp", "demand"} - set(rows.fieldnames)
            if missing:
                raise BadInput(
                    f"{path}: column {' and '.join(sorted(missing))} is missing: the first line "
                    f"must name the columns timestamp and demand, and names "
                    f"{quoted(found[:10])}"
                )
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                timestamps.append(_timestamp(row["timestamp"], where))
                demand.append(_demand(row["demand"], where))
                _check_order(timestamps[-2:], where)
    except OSError as error:
        raise BadInput(f"can't read the trace {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not demand:
        raise BadInput(f"{path} has no rows: a trace needs at least one")
    return Trace(path.stem, tuple(timestamps), np.array(demand))


def _check_order(newest: list[datetime], where: str) -> None:
    if newest[0] > newest[-1]:
        raise BadInput(f"{where}: time runs backwards: sort the rows by timestamp")
    if len(newest) > 1 and newest[0] == newest[1]:
        raise BadInput(
            f"{where}: {newest[1]:%Y-%m-%dT%H:%M:%SZ} occurs twice: a row is a step, so keep one "
            "row per time"
        )


def _timestamp(text: str | None, where: str) -> datetime:
    try:
        moment = datetime.fromisoformat((text or "").strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):  # the first and last hours of time are no UTC elsewhere
        raise BadInput(
            f"{where}: {quoted(text)} is not a time: write it like 2024-06-12T16:50:00Z"
        ) from None


def _demand(text: str | None, where: str) -> float:
    try:
        demand = float(text or "")
    except ValueError:
        raise BadInput(f"{where}: demand {quoted(text)} is not a number") from None
    if not (math.isfinite(demand) and 0 <= demand <= MAX_DEMAND):
        raise BadInput(
            f"{where}: demand {quoted(text)} can't be: it must be finite and not negative, "
            f"at most {MAX_DEMAND:g}"
        )
    return demand
