"""What a reply is, and how it is kept within what an agent can afford to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loom.texts import clean, shorten

FIELD_CHARACTERS = 8_000  # some 2,000 tokens
REPLY_CHARACTERS = 38_000  # under 10,000 tokens

_NEWEST_LAST = frozenset(("history", "landed", "notes", "proofs", "sent_back"))

Reply = dict[str, Any]

_encoded = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` makes another one each time


def full(**facts: Any) -> Reply:
    """Facts without those that are not there."""
    return {name: value for name, value in facts.items() if value is not None and value not in ([], {}, ())}


def fit(reply: Reply) -> Reply:
    """A reply within an agent's means: texts cleaned, long fields shortened, long lists cut, each saying so. What
    has the newest last loses its oldest."""
    task_id = reply.get("id")
    run_id = str(reply.get("run_id", ""))
    rest = f"loom status {task_id} --json" if isinstance(task_id, str) else "the loom command with --json"
    rest = f"loom workflow status {run_id} --json" if run_id.startswith("wf-") else rest
    rest = f"shortened; read the rest with {rest}"
    fitted: Reply = {key: _shorten(value, rest) for key, value in reply.items()}
    size = len(_encoded(fitted))
    while size > REPLY_CHARACTERS:
        key = max(fitted, key=lambda name: len(_encoded(fitted[name])))
        value = fitted[key]
        if isinstance(value, list) and len(value) > 1:
            kept = max(len(value) // 2, 1)
            left_out = fitted.get(f"{key}_left_out", 0) + len(value) - kept
            fitted[key] = value[-kept:] if _newest_last(key, reply) else value[:kept]
            fitted[f"{key}_left_out"] = left_out
        else:
            text = _encoded(value)
            fitted[key] = shorten(text, len(text) // 2, rest)
        size = len(_encoded(fitted))
    return fitted


def _newest_last(key: str, reply: Reply) -> bool:
    """Whether a list has what happened last at its end; the escalations of one task do, those that are open do not."""
    return key in _NEWEST_LAST or (key == "escalations" and "history" in reply)


def _shorten(value: Any, rest: str) -> Any:
    """A value of at most `FIELD_CHARACTERS`; a structure too long becomes the beginning of its JSON text."""
    if isinstance(value, str):
        return shorten(clean(value), FIELD_CHARACTERS, rest)
    if isinstance(value, list):
        return [_shorten(one, rest) for one in value]
    if isinstance(value, Mapping):
        shortened = {clean(str(key)): _shorten(one, rest) for key, one in value.items()}
        text = _encoded(shortened)
        if len(text) <= FIELD_CHARACTERS * 2:
            return shortened
        return shorten(text, FIELD_CHARACTERS, rest)
    return value
