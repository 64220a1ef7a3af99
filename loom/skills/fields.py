"""The fields of a YAML document that somebody has written: read one by one, each refusal naming the file and the key.

Skills and workflows declare what they take in the same way, as `inputs`:

    inputs:
      goal: {type: string, description: What is to be reached}
      files: {type: array, default: []}
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from loom import documents, texts
from loom.exceptions import InvalidInputError, LoomError
from loom.graph.model import limits
from loom.skills.library import FILE_BYTES
from loom.wording import InputName, Words

INPUTS_BYTES = 900_000
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_INPUT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DEPTH = 32  # of lists and mappings in each other
_TYPES: Mapping[str, tuple[type[Any], ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


@dataclass(frozen=True, slots=True)
class Input:
    """One input. `type` is one of JSON schema's; without `required` a missing one is `default`."""

    name: str
    type: str
    description: str
    required: bool
    default: Any


def accept(inputs: Sequence[Input], given: Mapping[str, Any], who: str) -> dict[str, Any]:
    """The inputs with their defaults.

    Args:
        who: what takes them, as in "the skill define_done".

    Raises:
        InvalidInputError: names what is missing, unknown or wrong.
    """
    known = {one.name: one for one in inputs}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            raise InvalidInputError(
                f"{who[0].upper()}{who[1:]} has no input {texts.quote(str(name))}.",
                f"Did you mean {near[0]}?" if near else f"It takes {', '.join(known) or 'none'}.",
            )
    values: dict[str, Any] = {}
    for name, one in known.items():
        if (value := given.get(name)) is None:
            if one.required:
                about = f": {one.description}" if one.description else ""
                needs = f"{who[0].upper()}{who[1:]} needs the input {name} ({one.type}){about}"
                raise InvalidInputError(
                    needs if needs.endswith((".", "?", "!")) else f"{needs}.",
                    Words("Pass {}.", InputName(name)),
                )
            value = one.default
        elif not fits(value, one.type):
            raise InvalidInputError(
                f"The input {name} of {who} must be of type {one.type}, not {limits.kind(value)}.",
                f"Pass {name} as {one.type}.",
            )
        values[name] = value
    limits.json_object(values, "inputs", INPUTS_BYTES)
    return values


def from_texts(inputs: Sequence[Input], arguments: Mapping[str, Any], who: str) -> dict[str, Any]:
    """Inputs that came as texts: read as JSON where something else than a text is wanted. Raises InvalidInputError."""
    kinds = {one.name: one.type for one in inputs}
    values: dict[str, Any] = {}
    for name, text in arguments.items():
        if not isinstance(text, str) or kinds.get(name, "string") == "string":
            values[name] = text
        elif text.strip():
            try:
                values[name] = json.loads(text)
            except (ValueError, RecursionError):
                raise InvalidInputError(
                    f"The input {name} of {who} must be JSON of type {kinds[name]}.", "Write it as JSON."
                ) from None
    return values


def brief(inputs: Sequence[Input]) -> dict[str, str]:
    """What is taken, by name: its type, and whether it may be left out."""
    return {one.name: f"{one.type}{'' if one.required else ', optional'}" for one in inputs}


def fits(value: object, kind: str) -> bool:
    """Whether a JSON value is of a type of JSON schema's."""
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, _TYPES[kind])


class Reader:
    """Reads the fields of one file."""

    def __init__(self, place: str, error: type[LoomError]) -> None:
        """
        Args:
            place: the file's name, for errors.
            error: what is raised.
        """
        self._place, self._error = place, error

    def refuse(self, what: str, advice: str = "Correct the file.") -> NoReturn:
        """Raises the error that names this file."""
        raise self._error(f"{self._place}: {what}.", advice)

    def size(self, text: str) -> None:
        """Refuses a text that is too large."""
        if len(text) > FILE_BYTES or len(text.encode(errors="replace")) > FILE_BYTES:
            self.refuse(f"is larger than {FILE_BYTES // 1024} kB")

    def yaml(self, text: str, what: str, first_line: int = 1) -> dict[str, Any]:
        """A YAML document that is a mapping.

        Args:
            what: it is called in errors, as in "the front matter".
            first_line: of the file that it begins in.
        """
        try:
            facts = documents.load(text, depth=_DEPTH)
        except documents.DocumentError as error:
            self.refuse(f"{what} {error.told(first_line)}", error.advice)
        if not isinstance(facts, dict):
            self.refuse(f"{what} is not a mapping of keys")
        return facts

    def storable(self, value: object, where: str) -> None:
        """Refuses what the database cannot keep."""
        try:
            limits.json_object({"": value}, where, FILE_BYTES * 2)
        except InvalidInputError as error:
            self.refuse(error.cause.replace(f"{where}.", where, 1).rstrip("."), error.next_step)

    def keys(self, facts: Mapping[Any, Any], known: Sequence[str], also: Sequence[str] = (), where: str = "") -> None:
        """Refuses a key that is none of `known` or, though not told, `also`."""
        for key in facts:
            if key not in known and key not in also:
                near = difflib.get_close_matches(str(key), known, 1)
                self.refuse(
                    f"{where}there is no key `{texts.shorten(str(key), 60)}`",
                    f"Did you mean `{near[0]}`?" if near else f"Use {', '.join(known)}.",
                )

    def name(self, facts: Mapping[str, Any], key: str, where: str = "") -> str:
        """A name by which others speak of it."""
        name = self.text(facts, key, where=where)
        if not _NAME.fullmatch(name):
            self.refuse(f"{where}`{key}` {texts.quote(name)} is not up to 64 of a-z, 0-9, _ and -")
        return name

    def text(self, facts: Mapping[str, Any], key: str, default: str | None = None, where: str = "") -> str:
        """A text on one line; a version may look like a number."""
        value = facts.get(key, default)
        if key == "version" and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if value is None:
            self.refuse(f"{where}`{key}` is missing")
        if not isinstance(value, str) or len(value) > 1024 or (not value.strip() and default is None):
            self.refuse(f"{where}`{key}` must be a text of 1 to 1,024 characters")
        return texts.one_line(value)

    def number(self, facts: Mapping[str, Any], key: str, low: float, high: float, where: str = "") -> float | None:
        """A number between two bounds, or None."""
        value = facts.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.refuse(f"{where}`{key}` must be a number from {low:,.12g} to {high:,.12g}")
        return float(value)

    def choice(self, facts: Mapping[str, Any], key: str, choices: Sequence[str], where: str = "") -> str | None:
        """One of some words, or None."""
        value: str | None = facts.get(key)
        if value is not None and value not in choices:
            self.refuse(f"{where}`{key}` must be one of {', '.join(choices)}")
        return value

    def flag(self, facts: Mapping[str, Any], key: str, default: bool, where: str = "") -> bool:
        """True or false."""
        value = facts.get(key, default)
        if not isinstance(value, bool):
            self.refuse(f"{where}`{key}` must be true or false")
        return value

    def mapping(self, facts: Mapping[str, Any], key: str, where: str = "") -> dict[str, Any]:
        """A mapping of names, or an empty one."""
        value = facts.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(f"{where}`{key}` must be a mapping of names")
        return value

    def inputs(self, facts: Mapping[str, Any]) -> tuple[Input, ...]:
        """What is declared as `inputs`, in its order."""
        return tuple(self._input(name, one) for name, one in self.mapping(facts, "inputs").items())

    def _input(self, name: object, facts: object) -> Input:
        key = f"inputs.{texts.shorten(str(name), 60)}"
        if not isinstance(name, str) or not _INPUT_NAME.fullmatch(name):
            self.refuse(f"`{key}` is not a name of a-z, 0-9 and _")
        if not isinstance(facts, dict):
            self.refuse(f"`{key}` must be a mapping of type, description, default and required")
        for one in facts:
            if one not in ("type", "description", "default", "required"):
                self.refuse(
                    f"`{key}` has no key `{texts.shorten(str(one), 60)}`",
                    "Use type, description, default and required.",
                )
        kind, required = facts.get("type", "string"), facts.get("required", "default" not in facts)
        if kind not in _TYPES:
            self.refuse(f"`{key}.type` must be one of {', '.join(_TYPES)}")
        if not isinstance(required, bool):
            self.refuse(f"`{key}.required` must be true or false")
        default = facts.get("default")
        if default is not None and not fits(default, kind):
            self.refuse(f"`{key}.default` is not of type {kind}")
        self.storable(default, f"`{key}.default`")
        description = self.text(facts, "description", "")
        return Input(name, kind, description, required, _TYPES[kind][0]() if default is None else default)
