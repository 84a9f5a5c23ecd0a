"""Known events: how many servers they need, from when on, until when.

Cron as Debian reads it: at a time that the clock leaves out an event starts when the clock goes on,
at one that it shows twice it starts once, the first time.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import ClassVar
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

CRON_FIELDS = 5
LONGEST_EVENT = timedelta(days=366)
CLOCK_CHANGE = timedelta(hours=2)
"""More than any clock is set back or forward by."""
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ScheduledFloor:
    """Servers that an event needs whenever it takes place; raises `ValueError`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    cron: str
    """When it starts: minute, hour, day of month, month, day of week."""
    zone: ZoneInfo
    """Where that is the time, such as Europe/Berlin."""
    duration: timedelta
    servers: int

    def __post_init__(self) -> None:
        if len(self.cron.split()) != CRON_FIELDS:
            raise ValueError(
                f"cron {self.cron!r} has not {CRON_FIELDS} fields: write minute, hour, day of "
                "month, month, day of week, such as '0 18 * * FRI'"
            )
        try:
            CronSim(self.cron, datetime(2024, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            reason = str(error).lower()
            raise ValueError(f"cron {self.cron!r} has a {reason}: see `man 5 crontab`") from None
        if not timedelta(0) < self.duration <= LONGEST_EVENT:
            raise ValueError(
                f"duration is {self.duration}: set more than none, and at most "
                f"{LONGEST_EVENT.days} days, in seconds or as '3:00:00'"
            )
        if self.servers < 1:
            raise ValueError(f"servers is {self.servers}: set how many the event needs, above 0")

    def servers_at(
        self, now: datetime, lead: timedelta, step: timedelta, max_step_up: int
    ) -> float:
        """Servers that a decision at `now` may not go below; 0 far from any event.

        A decision's servers are up `lead` later, and the next one comes a `step` later: the last
        that is in time for an event has all its servers, and so have those until its end. Before
        that the floor rises by `max_step_up` a step, so that no step has to be larger.
        """
        too_late = now + lead + step
        last = _last_start(self.cron, self.zone, _minute(too_late - INSTANT))
        if last is not None and now < last + self.duration:
            return float(self.servers)
        if not max_step_up:
            return 0.0
        following = _next_start(self.cron, self.zone, _minute(too_late - INSTANT))
        if following is None:
            return 0.0
        still_to_come = (following - now - lead) // step
        return max(0.0, float(self.servers - max_step_up * still_to_come))


def _minute(moment: datetime) -> datetime:
    """Events start on the minute: one answer for all that ask within it."""
    return moment.astimezone(UTC).replace(second=0, microsecond=0)


@lru_cache(maxsize=1024)
def _last_start(cron: str, zone: ZoneInfo, until: datetime) -> datetime | None:
    """The newest start up to `until`.

    Looked for from beyond a change of the clock: cronsim counts on the wall's clock, on which what
    comes later may have been.
    """
    for start in CronSim(cron, (until + CLOCK_CHANGE).astimezone(zone), reverse=True):
        if start.astimezone(UTC) <= until:
            return start.astimezone(UTC)
    return None


@lru_cache(maxsize=1024)
def _next_start(cron: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """The first start later than `after`; looked for as `_last_start` does."""
    for start in CronSim(cron, (after - CLOCK_CHANGE).astimezone(zone)):
        if start.astimezone(UTC) > after:
            return start.astimezone(UTC)
    return None
