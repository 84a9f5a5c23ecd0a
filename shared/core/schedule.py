"""Known events: how many servers they need, from when, and until when.

Cron follows Debian's rules for daylight saving: an event at a time that is skipped starts right
after the change; one at a time that occurs twice starts once, the first time.
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
"""Longer than any daylight-saving change."""
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ScheduledFloor:
    """The servers that a recurring event needs. Raises `ValueError` for unusable values."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    cron: str
    """When it starts: minute, hour, day of month, month, day of week."""
    zone: ZoneInfo
    """The time zone of `cron`, such as Europe/Berlin."""
    duration: timedelta
    servers: int

    def __post_init__(self) -> None:
        if len(self.cron.split()) != CRON_FIELDS:
            raise ValueError(
                f"cron {self.cron!r} must have {CRON_FIELDS} fields: write minute, hour, day of "
                "month, month, day of week, such as '0 18 * * FRI'"
            )
        try:
            CronSim(self.cron, datetime(2024, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            reason = str(error).lower()
            raise ValueError(f"cron {self.cron!r} has a {reason}: see `man 5 crontab`") from None
        if not timedelta(0) < self.duration <= LONGEST_EVENT:
            raise ValueError(
                f"duration is {self.duration}: set more than 0 and at most {LONGEST_EVENT.days} "
                "days, in seconds or as '3:00:00'"
            )
        if self.servers < 1:
            raise ValueError(f"servers is {self.servers}: set a number above 0")

    def servers_at(
        self, now: datetime, lead: timedelta, step: timedelta, max_step_up: int
    ) -> float:
        """The floor in servers for a decision at `now`; 0 far from any event.

        A decision's servers are up `lead` later, and the next decision comes one `step` later. The
        last decision that is in time for an event has the full floor, and so have those until the
        event's end. Before that, the floor rises by `max_step_up` per step, so that the rate limit
        is never exceeded.
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
    """The moment cut to the minute, in UTC: events start on the minute, and results are cached."""
    return moment.astimezone(UTC).replace(second=0, microsecond=0)


@lru_cache(maxsize=1024)
def _last_start(cron: str, zone: ZoneInfo, until: datetime) -> datetime | None:
    """The newest start up to `until`.

    The search begins `CLOCK_CHANGE` later: cronsim counts in local time, which may go back.
    """
    for start in CronSim(cron, (until + CLOCK_CHANGE).astimezone(zone), reverse=True):
        if start.astimezone(UTC) <= until:
            return start.astimezone(UTC)
    return None


@lru_cache(maxsize=1024)
def _next_start(cron: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """The first start later than `after`; the search begins `CLOCK_CHANGE` earlier."""
    for start in CronSim(cron, (after - CLOCK_CHANGE).astimezone(zone)):
        if start.astimezone(UTC) > after:
            return start.astimezone(UTC)
    return None
