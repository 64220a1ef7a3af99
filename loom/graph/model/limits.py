"""The limits of what callers may write, and one validator for each kind of value.

Every face hands untrusted values of any type to these functions through the graph's front. Each returns the clean value
or raises `InvalidInputError` that names the field, the limit and what was got. Nothing here cuts or repairs silently,
apart from space around texts and dependencies named twice.

Texts are data, titles among them: they are kept as they were written, and what cannot be seen in them goes where they
are shown (`texts.clean`), so that none is refused for a sign that came along when it was copied. Of a title something
must be left then.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, NoReturn

from loom import texts
from loom.bus.events import Position
from loom.bus.publisher import EVERYONE
from loom.config.rules import ROW_NAME
from loom.exceptions import InvalidInputError
from loom.graph.model.paths import is_own
from loom.graph.model.task import Priority
from loom.ids import AGENT_NAME, TASK_ID
from loom.wording import Argument, Words, call

TITLE_CHARACTERS = 500
KEY_CHARACTERS = 150
DONE_WHEN_BYTES = 8 * 1024
REASON_BYTES = 8 * 1024
JSON_BYTES = 256 * 1024
JSON_DEPTH = 64
MESSAGE_BYTES = 32 * 1024
DEPENDENCIES = 1_000
PATHS = 100
PATH_CHARACTERS = 500
CHECKS = 50
LABELS = 20
PAGE = 500
LOOKUP_CHARACTERS = 500  # of a name that something is looked up by
LEASE_SECONDS = 7 * 86400.0
SPAN_SECONDS = 100 * 365 * 86400.0  # that something looks back over, or holds for

NOT_ONE_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters and line separators: what a title may not have."""

_WILDCARD = re.compile(r"[*?\[]")
_CHECK_NAME = re.compile(ROW_NAME)
_LABEL = re.compile(r"[a-z0-9._:/-]{1,64}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LONG_INTEGER = re.compile(r"(?<!\d)\d{309}")  # no double has more digits before its point
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def title(value: object, field: str = "title") -> str:
    """A task's title: 1 to 500 characters on one line, spaces around it removed. `field` names it in errors."""
    text = _string(value, field)
    if len(text) <= TITLE_CHARACTERS and text.isascii() and text.isprintable() and (plain := text.strip()):
        return plain  # as nearly all are, and a plan has tens of thousands
    if len(text) > TITLE_CHARACTERS:
        _refuse(
            field,
            f"is {len(text):,} characters long; the limit is {TITLE_CHARACTERS}.",
            "Shorten it and put the rest into context.",
        )
    _characters(text, field)
    if found := NOT_ONE_LINE.search(text):
        _refuse(
            field,
            f"has a line break or control character (U+{ord(found[0]):04X}) at position {found.start() + 1}.",
            "Write it on one line and put the rest into context.",
        )
    if not texts.clean(text := text.strip()).strip():
        _refuse(field, "is empty.", f"Give it 1 to {TITLE_CHARACTERS} characters.")
    return text


def done_when(value: object) -> str | None:
    """A task's acceptance criteria, at most 8 kB; None where there are none."""
    if value is None:
        return None
    return _text(value, "done_when", DONE_WHEN_BYTES, "Shorten it and put the rest into context.") or None


def reason(value: object, field: str = "reason") -> str:
    """Why something failed, was cancelled or given back: some text of at most 8 kB. `field` names it in errors."""
    return _needed(_text(value, field, REASON_BYTES, "Shorten it to what the next reader must know."), field)


def message(value: object, field: str = "message") -> str:
    """A message or an escalation's question: some text of at most 32 kB. `field` names it in errors."""
    return _needed(_text(value, field, MESSAGE_BYTES, "Shorten it, or write the rest to a file and name it."), field)


def context(value: object) -> str:
    """A task's context as JSON text for Postgres, at most 256 kB; None is an empty object."""
    return json_object({} if value is None else value, "context")


def output(value: object) -> str:
    """A task's output as JSON text for Postgres, at most 256 kB; None is an empty object."""
    return json_object({} if value is None else value, "output")


def json_object(value: object, field: str, limit: int = JSON_BYTES) -> str:
    """Checks that `value` is a JSON object that Postgres can store and returns it as compact JSON text.

    Refused: anything but a dict, more than `limit` bytes of UTF-8, NUL characters and lone surrogates in texts and
    keys, NaN and infinities, integers that no double can hold, more than 64 levels, and types that JSON does not have.
    """
    if not isinstance(value, dict):
        _refuse(
            field,
            f"must be a JSON object, not {kind(value)}.",
            Words('Pass {} as an object, such as {"note": "…"}.', Argument(field)),
        )
    try:
        text = _encode(value)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError):
        _look_closely(value, field)
        _refuse(field, "cannot be written as JSON.", "Use texts, numbers, true, false, null, lists and objects only.")
    if size > limit:
        _refuse(
            field,
            f"is {size:,} bytes of JSON; the limit is {limit:,}.",
            "Write the bulk to a file and put its path there.",
        )
    # One pass in C said nearly all; these signs, each of which a harmless text may show too, call for the slow look.
    if "\\u0000" in text or text.count("{") + text.count("[") > JSON_DEPTH or _LONG_INTEGER.search(text):
        _look_closely(value, field)
    return text


_NAME_LIKE = "Choose a name such as backend-1."


def agent_name(value: object, field: str = "agent_id") -> str:
    """An agent's name: 1 to 64 letters, digits and `. _ : @ / -`. `field` names it in errors."""
    text = _string(value, field)
    if not AGENT_NAME.fullmatch(text):
        got = f"is {len(text):,} characters long" if len(text) > 64 else f"{texts.quote(text)} is not a name"
        _refuse(
            field,
            f"{got}; a name has 1 to 64 letters, digits and . _ : @ / -",
            _NAME_LIKE,
        )
    if TASK_ID.fullmatch(text.lower()):
        _refuse(field, f"{texts.quote(text)} is a task's id, which no agent is named like.", _NAME_LIKE)
    return text


def thread(value: object) -> str:
    """The id of a thread of messages: as an agent's name, or a task's id."""
    return text if TASK_ID.fullmatch(text := _string(value, "thread_id")) else agent_name(text, "thread_id")


def recipient(value: object) -> str:
    """Whom a message is for: an agent, everyone, or a task."""
    if value == EVERYONE or (isinstance(value, str) and TASK_ID.fullmatch(value)):
        return str(value)
    return agent_name(value, "to")


def key(value: object) -> str:
    """An idempotency key: some text on one line, of at most 150 characters."""
    text = _string(value, "key").strip()
    if len(text) > KEY_CHARACTERS:
        _refuse("key", f"is {len(text)} characters long; the limit is {KEY_CHARACTERS}.", "Give a shorter one.")
    return title(text, "key")


def token_name(value: object) -> str:
    """The name of an access token: an agent's name without `/`, which begins the name of an agent that is its own."""
    name = agent_name(value, "name")
    if "/" in name:
        _refuse("name", f"{texts.quote(name)} has a /, which begins what its agents call themselves", "Leave it out.")
    if not AGENT_NAME.fullmatch(board_agent(name)):
        _refuse("name", f"is {len(name)} characters long, which leaves its agents no room for names", "Shorten it.")
    return name


def board_agent(name: str) -> str:
    """The agent that whoever has a token of this name is on the board."""
    return f"{name}/board"


def task_id(value: object, field: str = "task_id") -> str:
    """A task's id: `loom-` and 8 hex digits. `field` names it in errors."""
    text = _string(value, field)
    if not TASK_ID.fullmatch(text):
        _refuse(
            field,
            f"{texts.quote(text)} is not a task id, which is loom- and 8 hex digits.",
            Words("Look for it with {}.", call("status", filter=...)),
        )
    return text


def depends_on(value: object) -> tuple[str, ...]:
    """The ids of the tasks to wait for, at most 1,000, in order and each once; None is none."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple | set | frozenset):
        _refuse(
            "depends_on", f"must be a list of task ids, not {kind(value)}.", 'Pass a list such as ["loom-0123abcd"].'
        )
    ids = tuple(dict.fromkeys(task_id(item, "depends_on") for item in value))
    count_dependencies(len(ids))
    return ids


def count_dependencies(count: int) -> None:
    """Refuses more than 1,000 dependencies of one task."""
    if count > DEPENDENCIES:
        _refuse(
            "depends_on",
            f"names {count:,} tasks; the limit is {DEPENDENCIES:,}.",
            "Put them under an epic and depend on the epic.",
        )


def files(value: object) -> tuple[str, ...]:
    """The paths that a task is about, at most 100, each as `path` has it and once; None is none."""
    paths = tuple(dict.fromkeys(path(one) for one in _list(value, "files", 'Pass a list such as ["src/app.py"].')))
    count_paths(len(paths))
    return paths


def count_paths(count: int) -> None:
    """Refuses more than 100 paths of one task."""
    if count > PATHS:
        _refuse("files", f"names {count:,} paths; the limit is {PATHS}.", "Name the directories that they lie in.")


def path(value: object) -> str:
    """A path as git has it: relative to the root of the repository, with `/`, in Unicode's composed form. A glob stands
    for the directory before its first wildcard, `.` for the whole repository. Links are not followed.

    Refused: what is not below the root, also where it would lead back, Loom's and git's own directories, control
    characters and backslashes.
    """
    given = _string(value, "files").strip()
    if len(given) > PATH_CHARACTERS:
        fault = f"names a path of {len(given):,} characters; the limit is {PATH_CHARACTERS}."
        _refuse("files", fault, "Name the directory that it lies in.")
    _characters(given, "files")
    shown = texts.quote(given)
    if found := NOT_ONE_LINE.search(given):
        fault = f"names {shown}, which has a line break or control character (U+{ord(found[0]):04X})."
        _refuse("files", fault, "Write one path in each place.")
    if not given:
        _refuse("files", "names an empty path.", "Leave it out, or write . for the whole repository.")
    if "\\" in given:
        _refuse("files", f"names {shown}, which has a backslash.", "Write the path with /.")
    parts = [unicodedata.normalize("NFC", part) for part in given.split("/") if part not in ("", ".")]
    if ".." in parts or given.startswith("/") or "".join(parts[:1]).startswith("~"):
        fault = f"names {shown}, which is not below the project's repository."
        _refuse("files", fault, "Write a path that is relative to its root, with / and without ..")
    if any(part != part.strip() for part in parts):
        fault = f"names {shown}, in which a name begins or ends with a space."
        _refuse("files", fault, "Rename that, or name the directory that it lies in.")
    wild = next((place for place, part in enumerate(parts) if _WILDCARD.search(part)), len(parts))
    if is_own("/".join(parts)):
        _refuse("files", f"names {shown}, which no task changes.", "Leave it out; Loom and git keep it themselves.")
    return "/".join(parts[:wild]) or "."


def checks(value: object) -> tuple[str, ...]:
    """The names of the checks that a task is done only with, at most 50, each once; None is none. Whether they are in
    force is another question."""
    names = tuple(dict.fromkeys(check(one) for one in _list(value, "checks", 'Pass a list such as ["unit"].')))
    count_checks(len(names))
    return names


def check(value: object) -> str:
    """The name of a check."""
    text = _string(value, "checks")
    if not _CHECK_NAME.fullmatch(text):
        fault = f"names {texts.quote(text)}, which is no name of a check: 1 to 64 letters, digits, _ and -"
        _refuse("checks", fault, "Name one that the configuration has.")
    return text


def count_checks(count: int) -> None:
    """Refuses more than 50 checks of one task."""
    if count > CHECKS:
        _refuse("checks", f"names {count:,} checks; the limit is {CHECKS}.", "Put them together into fewer.")


def labels(value: object, field: str = "labels") -> tuple[str, ...]:
    """The labels of a task in their order, at most 20, each once; None is none. `field` names them in errors."""
    found = tuple(sorted({label(one, field) for one in _list(value, field, 'Pass a list such as ["area:parser"].')}))
    count_labels(len(found))
    return found


def label(value: object, field: str = "labels") -> str:
    """A label: 1 to 64 of a-z, 0-9 and . _ : / -; capitals become small."""
    text = _string(value, field).strip().lower()
    if not _LABEL.fullmatch(text):
        _refuse(
            field,
            f"has {texts.quote(text)}; a label has 1 to 64 of a-z, 0-9, and . _ : / -",
            "Name it like area:parser.",
        )
    return text


def count_labels(count: int) -> None:
    """Refuses more than 20 labels of one task."""
    if count > LABELS:
        _refuse("labels", f"would be {count:,} labels; the limit is {LABELS}.", "Take one away first.")


def priority(value: object) -> Priority:
    """A priority: p0, p1 or p2, in either case."""
    text = _string(value, "priority").lower()
    if text not in Priority.__members__.values():
        _refuse("priority", f"{texts.quote(text)} does not exist.", "Use p0 (first), p1 or p2.")
    return Priority(text)


def page(value: object, most: int = PAGE) -> int:
    """How many rows to return: a whole number from 1 to `most`."""
    return _whole(value, "limit", 1, most, "Ask for fewer, and again for the rest.")


def position(value: object) -> Position:
    """The place of an event in the order of all."""
    text = _string(value, "until")
    try:
        return Position.parse(text)
    except ValueError:
        _refuse(
            "until", f"{texts.quote(text, 40)} is the position of no event.", "Take it from an event, or leave it out."
        )


def token(value: object) -> int:
    """The token of a claim: the whole number that the claim returned."""
    return _whole(value, "token", 0, 2**63 - 1, "Pass it as the claim returned it, or leave it out.")


def message_id(value: object) -> int:
    """The number of a message."""
    return _whole(value, "ack", 1, 2**63 - 1, "Take the ids from the inbox.")


def seconds(value: object, field: str, low: float, high: float) -> float:
    """A time span in seconds between two bounds. `field` names it in errors."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        _refuse(field, f"must be a number of seconds from {low:g} to {high:g}.", "Give a number between them.")
    return float(value)


def kind(value: object) -> str:
    """What a value is, in words for an error message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return f"a value of type {type(value).__name__}"


def _list(value: object, field: str, advice: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple | set | frozenset):
        _refuse(field, f"must be a list, not {kind(value)}.", advice)
    return list(value)


def _whole(value: object, field: str, low: int, high: int, advice: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        _refuse(field, f"must be a whole number from {low} to {high}.", advice)
    return value


def _string(value: object, field: str) -> str:
    if not isinstance(value, str):
        _refuse(field, f"must be text, not {kind(value)}.", Words("Pass {} as text.", Argument(field)))
    return str(value)


def _text(value: object, field: str, limit: int, advice: str) -> str:
    text = _string(value, field)
    _characters(text, field)
    if (size := len(text.encode())) > limit:
        _refuse(field, f"is {size:,} bytes long; the limit is {limit:,}.", advice)
    return text.strip()


def _needed(text: str, field: str) -> str:
    if not text:
        _refuse(field, "is empty.", Words("Say something in {}.", Argument(field)))
    return text


def _characters(text: str, field: str, path: str = "", before: str = "") -> None:
    if "\0" in text:
        fault = f"has a NUL character at position {text.index(chr(0)) + 1}."
        _refuse(field, fault, "Remove it; Postgres stores no NUL.", path, before)
    if not text.isascii() and (found := _SURROGATE.search(text)):
        fault = f"has half a character (surrogate U+{ord(found[0]):04X}) at position {found.start() + 1}."
        _refuse(field, fault, "Decode the text as UTF-8 before passing it.", path, before)


def _look_closely(value: object, field: str) -> None:
    """Refuses the first thing in `value` that makes it unfit, naming its place. Walks without recursion."""
    stack: list[tuple[Any, str, int]] = [(value, "", 1)]
    while stack:
        item, path, depth = stack.pop()
        if isinstance(item, str):
            _characters(item, field, path)
        elif isinstance(item, int | float):
            _number(item, field, path)
        elif isinstance(item, dict | list | tuple):
            if depth > JSON_DEPTH:
                _refuse(field, f"is nested more than {JSON_DEPTH} levels deep.", "Flatten it, or pass a part as text.")
            stack.extend((part, below, depth + 1) for part, below in reversed(_parts(item, field, path)))
        elif item is not None:
            fault = f"is {kind(item)}, which JSON does not have."
            _refuse(field, fault, "Pass it as text, number, list or object.", path)


def _number(item: float, field: str, path: str) -> None:
    # Beyond a double's range; inf - inf and nan - nan are not zero.
    if (isinstance(item, int) and item.bit_length() > 1024) or (isinstance(item, float) and item - item != 0):
        _refuse(field, "is a number that JSON cannot carry safely.", "Pass it as text.", path)


def _parts(item: dict[object, Any] | list[Any] | tuple[Any, ...], field: str, path: str) -> list[tuple[Any, str]]:
    """What stands in a mapping or list, with its place. Refuses keys that are no texts."""
    if not isinstance(item, dict):
        return [(part, f"{path}[{index}]") for index, part in enumerate(item)]
    for key in item:
        if isinstance(key, str):
            _characters(key, field, path, "a key in ")
        elif not isinstance(key, int | float | None):
            _refuse(field, f"has a key that is {kind(key)}.", "Use texts as keys.", path)
    return [(part, f"{path}.{texts.quote(str(key), 30)[1:-1]}") for key, part in item.items()]


def _refuse(field: str, fault: str, next_step: str, path: str = "", before: str = "") -> NoReturn:
    """Refuses an argument, or what stands in it at `path`; `before` that."""
    raise InvalidInputError(Words("{}{}{} {}", before, Argument(field), path, fault), next_step)
