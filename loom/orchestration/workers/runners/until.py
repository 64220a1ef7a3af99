"""When a limit is over, from the words that agents' programs have for it."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

_LONGEST = timedelta(days=8)  # a week, and some
_WHEN = re.compile(
    r"(?:resets|try again at)\s+(?:(?P<month>[A-Z][a-z]{2})[a-z]*\s+(?P<day>\d{1,2})(?:st|nd|rd|th)?,?\s+"
    r"(?:(?P<year>\d{4}),?\s+)?(?:at\s+)?)?(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))?\s*(?P<half>[AaPp][Mm])"
    r"(?:\s*\((?P<zone>[A-Za-z0-9_+/-]{1,60})\))?"
)


def moment(seconds: int) -> datetime | None:
    """The moment so many seconds after the epoch; None where that is no time to wait for."""
    with suppress(OverflowError, OSError, ValueError):
        return _near(datetime.fromtimestamp(seconds, UTC), datetime.now(UTC))
    return None


def told(text: str, now: datetime) -> datetime | None:
    """The moment that a text names: "resets 3:25pm (UTC)", "try again at 5:48 PM.", "try again at Nov 28th, 2026
    2:13 PM."; without a zone it is that of this machine, without a day the next such time. None where there is none."""
    found = _WHEN.search(text.replace("\N{NARROW NO-BREAK SPACE}", " "))
    if found is None:
        return None
    with suppress(ValueError, OSError):
        here = now.astimezone(_zone(found["zone"]))
        hour = int(found["hour"]) % 12 + (12 if found["half"].lower() == "pm" else 0)
        at = here.replace(hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0)
        if found["month"]:
            month = datetime.strptime(found["month"], "%b").month
            at = at.replace(year=int(found["year"] or at.year), month=month, day=int(found["day"]))
        elif at <= here - timedelta(minutes=1):
            at += timedelta(days=1)
        return _near(at.astimezone(UTC), now)
    return None


def _zone(name: str | None) -> tzinfo | None:
    with suppress(KeyError):  # ZoneInfoNotFoundError is one
        return ZoneInfo(name) if name else None
    return None


def _near(at: datetime, now: datetime) -> datetime | None:
    return at if now - timedelta(days=1) < at < now + _LONGEST else None
