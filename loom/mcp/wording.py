"""What sentences say to agents: calls are tools, arguments have the names that tools give them."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from loom.wording import Argument, Call, InputName, Moment, Named, Shell


def agents(named: Named) -> str:
    """A part of a sentence in the words of this face."""
    match named:
        case Call(verb, arguments):
            given = ", ".join(f"{name}={_value(value)}" for name, value in arguments)
            return f"loom_{verb}({given})" if given else f"loom_{verb}"
        case Argument(name):
            return name
        case InputName():
            return str(named)
        case Shell(line):
            return f"`{line}`"
        case Moment(at):
            return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _value(value: Any) -> str:
    if value is ...:
        return "…"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
