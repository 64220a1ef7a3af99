"""The language that tasks are looked for in: words, and `key:value`, all of which must hold.

    parse("parser status:ready,claimed -label:later age:>7d")

Several values behind one key, with commas between them, are any of them; a minus before a key or word is its opposite.
Words are looked for in title, criteria and context, in their several forms; "in quotes" they stand side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

from loom import texts
from loom.exceptions import InvalidInputError
from loom.graph.model import limits
from loom.graph.model.task import Priority

STATES = {
    "ready": "can be claimed now",
    "blocked": "waits for something",
    "claimed": "somebody is at it",
    "landing": "proven, in the queue for landing",
    "retry": "failed, and tried again by itself",
    "dead": "failed for good, until somebody decides",
    "epic": "holds tasks, and is open",
    "done": "finished",
    "cancelled": "given up",
}
"""The states that a task is looked for by, and what they mean. `open` and `finished` are several of them."""

_SEVERAL = {
    "open": ("ready", "blocked", "claimed", "landing", "retry", "dead", "epic"),
    "finished": ("done", "cancelled"),
    "failed": ("retry", "dead"),
    "pending": ("ready",),
}
STATE_WORDS = (*STATES, *_SEVERAL)
"""All that may stand behind `status:`."""
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"([<>])(\d{1,5})([mhdw])")
_TOKEN = re.compile(r'(-?)(?:([A-Za-z_-]+):)?("[^"]*"|[^\s"]\S*)')
_CHARACTERS = 1_000
_VALUES = 50  # behind one key
_MOST_TIMES = 100


@dataclass(frozen=True, slots=True)
class Span:
    """Some seconds ago, at most or at least: `within`: since then."""

    seconds: float
    within: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks are wanted; what is empty does not matter. All that is given must hold."""

    states: tuple[str, ...] = ()
    not_states: tuple[str, ...] = ()
    priorities: tuple[Priority, ...] = ()
    labels: tuple[str, ...] = ()
    """Any of these."""
    not_labels: tuple[str, ...] = ()
    epic: str | None = None
    """Somewhere below this one, named as tasks are."""
    holder: str | None = None
    """Held by this agent, or held last."""
    waits_for: str | None = None
    """Depends on this one, over an edge that holds."""
    file: str | None = None
    """Names this path, one above or one below it among its files."""
    words: str = ""
    """As a person types them into a search."""
    age: Span | None = None
    """Since it was made."""
    changed: Span | None = None
    """Since it last changed."""
    finished: Span | None = None
    """Since it was done or cancelled."""
    failed: int | None = None
    """Attempts at it have failed so many times, or more."""

    def with_(self, **more: object) -> Filter:
        """The same with more of it given."""
        return replace(self, **more)  # type: ignore[arg-type]


def parse(text: object) -> Filter:
    """The filter that a text says. Raises InvalidInputError with what could be meant."""
    if not isinstance(text, str):
        _refuse(f"must be text, not {limits.kind(text)}.")
    if len(text) > _CHARACTERS:
        _refuse(f"has {len(text):,} characters; the limit is {_CHARACTERS:,}.", "Look for less at once.")
    if strange := next((one for one in text if not (one.isprintable() or one.isspace())), None):
        _refuse(f"has a character that cannot be seen (U+{ord(strange):04X}).", "Leave it out.")
    if text.count('"') % 2:
        _refuse('has a " without its other one.', "Close it, or leave it out.")
    found, words = _Found(), []
    for match in _TOKEN.finditer(text):
        minus, name, value = match.groups()
        key = name and name.lower().replace("_", "-")
        if key is None:
            if value[-1:] == ":" and value[:-1].lower() in _KEYS:
                _refuse(f"has nothing behind {value}", "Write the value right behind the colon.")
            words.append(minus + value)
        elif key in _KEYS:
            found.take(key, value.strip('"'), opposite=bool(minus))
        else:
            keys = ", ".join(sorted(_KEYS))
            advice = f'Use {keys}; a word with a colon is looked for in "quotes".'
            _refuse(f"knows no {texts.quote(name)}{_perhaps(key, _KEYS)}.", advice)
    return replace(found.filter, words=" ".join(words))


def known(wanted: Filter) -> Filter:
    """A filter that somebody has made himself. Raises InvalidInputError where a state is none."""
    for state in (*wanted.states, *wanted.not_states):
        if state not in STATES:
            _refuse(f"knows no status {texts.quote(state)}{_perhaps(state, STATES)}.", f"Use {', '.join(STATES)}.")
    return wanted


# --- how --------------------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """What was read so far."""

    filter: Filter = field(default_factory=Filter)

    def take(self, key: str, value: str, *, opposite: bool) -> None:
        name, read, may_be_opposite, several = _KEYS[key]
        if opposite and not may_be_opposite:
            _refuse(f"has no opposite of {key}.", "Leave the minus out.")
        if several:
            values = value.split(",")
            if len(values) > _VALUES:
                _refuse(f"has {len(values)} values behind {key}; the limit is {_VALUES}.", "Look for fewer at once.")
            name = f"not_{name}" if opposite else name
            more = tuple(one for part in values for one in _many(read(part)))
            self.filter = self.filter.with_(**{name: tuple(dict.fromkeys((*getattr(self.filter, name), *more)))})
            return
        if getattr(self.filter, name) is not None:
            _refuse(f"has {key} twice.", "Give it once.")
        self.filter = self.filter.with_(**{name: read(value)})


def _many(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _states(text: str) -> tuple[str, ...]:
    state = text.lower()
    if state in STATES:
        return (state,)
    if state not in _SEVERAL:
        near = _perhaps(state, STATE_WORDS)
        _refuse(f"knows no status {texts.quote(text)}{near}.", f"Use {', '.join([*STATES, 'open', 'finished'])}.")
    return _SEVERAL[state]


def _span(text: str) -> Span:
    match = _SPAN.fullmatch(text)
    if match is None:
        _refuse(f"has no time in {texts.quote(text)}.", "Write <2h for within the last two hours, >7d for before.")
    return Span(int(match[2]) * _UNITS[match[3]], within=match[1] == "<")


def _times(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= _MOST_TIMES):
        _refuse(f"has no number of failures in {texts.quote(text)}.", f"Write one from 1 to {_MOST_TIMES}.")
    return int(text)


_Key = tuple[str, Callable[[str], object], bool, bool]  # field, reader, whether it has an opposite, whether several
_KEYS: Mapping[str, _Key] = {
    "status": ("states", _states, True, True),
    "priority": ("priorities", lambda text: limits.priority(text.lower()), False, True),
    "label": ("labels", lambda text: limits.label(text, "label"), True, True),
    "epic": ("epic", str, False, False),
    "holder": ("holder", lambda text: limits.agent_name(text, "holder"), False, False),
    "waits-for": ("waits_for", str, False, False),
    "file": ("file", lambda text: limits.path(text), False, False),
    "age": ("age", _span, False, False),
    "changed": ("changed", _span, False, False),
    "finished": ("finished", _span, False, False),
    "failed": ("failed", _times, False, False),
}


def _perhaps(word: str, known: Iterable[str]) -> str:
    """What was perhaps meant by a word that means nothing."""
    near = texts.near(word, known)
    return f", perhaps {near}" if near else ""


def _refuse(fault: str, next_step: str = "Give it as text.") -> NoReturn:
    raise InvalidInputError(f"The filter {fault}", next_step)
