"""How a call of the front, its answer and its errors travel as JSON: as the annotations of its methods say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

import loom
from loom import exceptions, texts
from loom.exceptions import InvalidInputError, LoomError, ServersError
from loom.graph.access import operations
from loom.graph.front import Loom
from loom.wording import Argument, Words

OPERATIONS = frozenset(operations(Loom))
"""What can be called from afar."""


class _Names(dict[str, Any]):
    """What annotations name that is imported for type checkers alone; all of it is public."""

    def __missing__(self, name: str) -> Any:
        if name not in loom.__all__:
            raise KeyError(name)
        return getattr(loom, name)


class _Shape:
    """What an operation takes and gives."""

    def __init__(self, operation: str) -> None:
        method = getattr(Loom, operation)
        hints = get_type_hints(method, localns=_Names())
        self.signature = inspect.signature(method)
        self.returns: TypeAdapter[Any] = TypeAdapter(hints.pop("return"))
        self.takes: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(hint) for name, hint in hints.items()}


@cache
def _shape(operation: str) -> _Shape:
    return _Shape(operation)


def takes(operation: str, argument: str) -> bool:
    """Whether an operation has an argument of this name."""
    return argument in _shape(operation).takes


def bound(operation: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name. Raises TypeError where it takes others."""
    given = _shape(operation).signature.bind(None, *arguments, **named).arguments
    return dict(list(given.items())[1:])


def sent(operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments as JSON has them."""
    takes = _shape(operation).takes
    return {name: takes[name].dump_python(value, mode="json") for name, value in arguments.items()}


def received(operation: str, arguments: object) -> dict[str, Any]:
    """A call's arguments from JSON. Raises InvalidInputError."""
    takes = _shape(operation).takes
    if not isinstance(arguments, dict):
        raise InvalidInputError("The arguments of a call are a JSON object.", "Send one, {} if there are none.")
    made = {}
    for name, value in arguments.items():
        if name not in takes:
            raise InvalidInputError(
                f"{operation} has no argument {texts.quote(str(name))}.", f"It takes {', '.join(takes) or 'none'}."
            )
        try:
            made[name] = takes[name].validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise InvalidInputError(
                Words("{} is not as it should be: {}.", Argument(name), texts.shorten(first["msg"], 200)),
                "Correct it.",
            ) from None
    required = (one for one in _shape(operation).signature.parameters.values() if one.default is one.empty)
    if missing := [one.name for one in required if one.name != "self" and one.name not in made]:
        raise InvalidInputError(Words("{} is missing.", Argument(missing[0])), "Give it.")
    return made


def answer(operation: str, result: Any) -> bytes:
    """An answer as JSON."""
    return _shape(operation).returns.dump_json(result)


def answered(operation: str, data: bytes) -> Any:
    """An answer from JSON. Raises ValueError where it is none of this operation."""
    return _shape(operation).returns.validate_json(data)


def refusal(error: LoomError) -> dict[str, Any]:
    """An error as JSON: told for whoever reads it, and whole in `data`."""
    told = {"code": error.code, "cause": str(error.cause), "next_step": str(error.next_step), **error.facts}
    return {"error": {**told, "data": exceptions.as_data(error)}}


def refused(body: bytes) -> LoomError | None:
    """The error that a body tells of; None where it tells of none that this Loom could have."""
    try:
        found = from_json(body)
    except ValueError:
        return None
    match found:
        case {"error": {"data": {"error": str(), "cause": _, "next_step": _} as data}}:
            with suppress(TypeError, ValueError, AttributeError, KeyError):
                return exceptions.from_data(data)
    match found:
        case {"error": {"code": str(code), "cause": str(cause)}}:
            return ServersError(f"{cause} ({code})")
    return None
