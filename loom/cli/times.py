"""Times for a person: one form of them."""

from __future__ import annotations

from datetime import datetime


def when(moment: str) -> str:
    """A time as it is here, with its date unless that is today."""
    local = datetime.fromisoformat(moment).astimezone()
    today = local.date() == datetime.now(local.tzinfo).date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
