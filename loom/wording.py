"""Sentences that name a call, an argument, a command or a moment: as data, which each face puts into its own words.

    Words("Requeue it with {}.", call("resolve", id="loom-0123abcd", action="retry"))

An agent reads "Requeue it with loom_resolve(id=loom-0123abcd, action=retry).", a person "Requeue it with `loom resolve
loom-0123abcd retry`.". The faces' tables are `mcp/wording.py` and `cli/wording.py`; who has no table, such as a caller
in Python or a column in the database, has the text itself, which names neither tool nor command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime


class Call(NamedTuple):
    """Something to call. `verb`: what the tool `loom_<verb>` and the command `loom <verb>` have in common; `arguments`:
    names as the tools have them, and values, where `...` stands for one that the caller has to find."""

    verb: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        given = ", ".join(f"{name} {value}" if value is not ... else name for name, value in self.arguments)
        return f"“{self.verb}”{f' ({given})' if given else ''}"


class Argument(NamedTuple):
    """The name of an argument, as the tools have it."""

    name: str

    def __str__(self) -> str:
        return self.name


class InputName(NamedTuple):
    """The name of one of a skill's or a workflow's inputs."""

    name: str

    def __str__(self) -> str:
        return f"{self.name} in inputs"


class Shell(NamedTuple):
    """A command line that everybody types alike, whatever face they have, because there is no tool for it."""

    line: str

    def __str__(self) -> str:
        return f"`{self.line}`"


class Moment(NamedTuple):
    """A time of day."""

    at: datetime

    def __str__(self) -> str:
        return self.at.isoformat(timespec="seconds")


Named = Call | Argument | InputName | Shell | Moment
"""What faces word differently."""

Face = Callable[[Named], str]
"""How a face words it."""


class Words(str):
    """A text, and the parts that it is made of: texts, and what faces word differently.

    Args:
        template: the sentence, with a `{}` for each slot. It is a literal: what others have written goes into a slot.
        slots: what is named, other words, and texts and numbers as they are.
    """

    parts: tuple[str | Named, ...]

    def __new__(cls, template: str, *slots: object) -> Words:
        first, *others = template.split("{}", len(slots))
        parts: list[str | Named] = [first]
        for slot, text in zip(slots, others, strict=True):
            if isinstance(slot, Words):
                parts += slot.parts
            else:
                parts.append(slot if isinstance(slot, Named) else str(slot))
            parts.append(text)
        words = super().__new__(cls, "".join(map(str, parts)))
        words.parts = tuple(parts)
        return words

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls that are named, in order."""
        return tuple(part for part in self.parts if isinstance(part, Call))


def call(verb: str, /, **arguments: Any) -> Call:
    """A call as a part of `Words`; an argument of `...` is for the caller to find."""
    return Call(verb, tuple(arguments.items()))


def listed(texts: Sequence[str], between: str = "; ") -> Words:
    """Several texts as one, with something between them."""
    return Words(between.join("{}" for _ in texts), *texts)


def worded(text: str, face: Face) -> str:
    """A text in the words of a face; one without parts as it is."""
    if not isinstance(text, Words):
        return text
    return "".join(part if isinstance(part, str) else face(part) for part in text.parts)


def parts_of(text: str) -> str | list[Any]:
    """A text as JSON has it, with what faces word differently: the reverse of `from_parts`."""
    if not isinstance(text, Words):
        return str(text)
    return [part if isinstance(part, str) else _as_data(part) for part in text.parts]


def from_parts(data: str | list[Any]) -> str:
    """A text that `parts_of` made JSON of. Raises ValueError for anything else."""
    if isinstance(data, str):
        return data
    parts = tuple(part if isinstance(part, str) else _from_data(part) for part in data)
    words = str.__new__(Words, "".join(map(str, parts)))
    words.parts = parts
    return words


def _as_data(part: Named) -> dict[str, Any]:
    match part:
        case Call(verb, arguments):
            return {"call": verb, "arguments": [[name] if value is ... else [name, value] for name, value in arguments]}
        case Moment(at):
            return {"moment": at.isoformat()}
        case Shell(line):
            return {"shell": line}
        case InputName(name):
            return {"input": name}
        case Argument(name):
            return {"argument": name}


def _from_data(data: Mapping[str, Any]) -> Named:
    from datetime import datetime

    match data:
        case {"call": str(verb), "arguments": list(arguments)}:
            return Call(verb, tuple((one[0], one[1] if len(one) > 1 else ...) for one in arguments))
        case {"moment": str(at)}:
            return Moment(datetime.fromisoformat(at))
        case {"shell": str(line)}:
            return Shell(line)
        case {"input": str(name)}:
            return InputName(name)
        case {"argument": str(name)}:
            return Argument(name)
    raise ValueError("This is no part of a sentence.")


def worded_reply(reply: Mapping[str, Any], face: Face) -> dict[str, Any]:
    """A reply with its sentences, however deep they lie in it, in the words of a face."""
    return {name: _worded_value(value, face) for name, value in reply.items()}


def _worded_value(value: Any, face: Face) -> Any:
    if isinstance(value, str):
        return worded(value, face)
    if isinstance(value, list):
        return [_worded_value(one, face) for one in value]
    return worded_reply(value, face) if isinstance(value, dict) else value
