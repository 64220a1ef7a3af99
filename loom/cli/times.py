"""Times for a person: one form of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any


def when(moment: str) -> str:
    """A time as it is here, with its date unless that is today."""
    local = datetime.fromisoformat(moment).astimezone()
    today = local.date() == datetime.now(local.tzinfo).date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def until(claim: Mapping[str, Any]) -> str:
    """Until when a claim in a reply holds."""
    return f"until {when(claim['lease_expires_at'])}" if "lease_expires_at" in claim else "until it has landed"


def span(seconds: float) -> str:
    """How long something takes or took, in its two largest units."""
    left, parts = max(round(seconds), 0), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
