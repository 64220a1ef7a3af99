"""Times for a person: one form of them, and of spans."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

_SPAN = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 36_500 * 86400  # seconds; what a database can count back


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


def given_span(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """For an option that is a span: its seconds."""
    if value is None:
        return None
    parts = _SPAN.fullmatch(value)
    if not (found := float(parts[1]) * _UNITS[parts[2]] if parts else 0.0):
        raise click.BadParameter(f"{value!r} is no span such as 90s, 15m, 2h or 7d.", ctx, param)
    if found > _LONGEST:
        raise click.BadParameter(f"{value!r} is longer than {_LONGEST // _UNITS['d']:,}d.", ctx, param)
    return found
