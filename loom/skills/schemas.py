"""What a skill may ask of its answers: JSON schemas (2020-12) of keywords that cost no more than schema and answer are
large.

So there are no references, which lead elsewhere or round in a circle; no patterns, which may take for ever over a short
text; nothing that compares each with each, and nothing that looks again at what others have left over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from itertools import islice
from typing import Any

from loom import texts

SECONDS = 20.0  # of computing for one answer, so that no verdict depends on what else runs here
DEPTH = 20
_PLAIN = """
title description default examples deprecated readOnly writeOnly format $comment type enum const required
minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength minItems maxItems minContains
maxContains minProperties maxProperties dependentRequired
"""  # whose values are no schemas
_SCHEMA = frozenset({"items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else"})
_LISTS = frozenset({"prefixItems", "allOf", "anyOf", "oneOf"})
_NAMED = frozenset({"properties", "dependentSchemas"})  # schemas by the names of properties
KEYWORDS = frozenset(_PLAIN.split()) | _SCHEMA | _LISTS | _NAMED
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class TooLongError(Exception):
    """An answer could not be checked in time."""


def fault_of(schema: Mapping[str, Any]) -> str | None:
    """Why a schema is none that skills have, as a sentence about `outputs` goes on; None: it is one."""
    if fault := _too_deep(schema) or next(_foreign(schema), None):
        return fault
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        return f"`outputs` is not a valid JSON schema: {texts.shorten(f'outputs{where}: {error.message}', 240)}"
    return None


def usable(schema: Mapping[str, Any]) -> bool:
    """Whether an answer may be held against a schema that was accepted once, by whatever Loom."""
    return not _too_deep(schema) and next(_foreign(schema), None) is None


def errors(answer: object, schema: Mapping[str, Any], most: int) -> list[Any]:
    """What jsonschema finds wrong with an answer, up to so many errors. Raises TooLongError after `SECONDS`."""
    from referencing import Registry

    token = _until.set(time.thread_time() + SECONDS)
    try:
        found = _validator()(schema, registry=Registry()).iter_errors(answer)  # a registry that fetches nothing
        return list(islice(found, most))
    finally:
        _until.reset(token)


_until: ContextVar[float] = ContextVar("_until")


def _too_deep(schema: object) -> str | None:
    waiting: list[tuple[object, str, int]] = [(schema, "outputs", 0)]
    while waiting:
        one, path, depth = waiting.pop()
        if depth > DEPTH:
            return f"`{texts.shorten(path, 80)}` is nested more than {DEPTH} deep"
        if isinstance(one, dict):
            waiting += ((part, f"{path}.{name}", depth + 1) for name, part in one.items())
        elif isinstance(one, list):
            waiting += ((part, path, depth + 1) for part in one)
    return None


def _foreign(schema: object) -> Iterator[str]:
    """The keywords that skills do not have, each value walked as what its keyword says it is. What has a wrong shape is
    left to the check against the metaschema."""
    waiting: list[tuple[object, str]] = [(schema, "outputs")]
    while waiting:
        one, path = waiting.pop()
        if not isinstance(one, dict):
            continue
        for name, part in one.items():
            below = f"{path}.{name}"
            if name in _SCHEMA:
                waiting.append((part, below))
            elif name in _LISTS and isinstance(part, list):
                waiting += ((inner, below) for inner in part)
            elif name in _NAMED and isinstance(part, dict):
                waiting += ((inner, f"{below}.{key}") for key, inner in part.items())
            elif name not in KEYWORDS and not (one is schema and name == "$schema" and part == _DIALECT):
                yield f"`{texts.shorten(path, 80)}` uses {texts.shorten(str(name), 60)}, which skills do not have"


@cache
def _validator() -> Any:
    """jsonschema's own, that looks at the clock before each keyword."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    def timed(check: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*given: Any) -> Any:
            if time.thread_time() > _until.get():
                raise TooLongError
            return check(*given)

        return checked

    make: Any = extend  # which has no types
    return make(Draft202012Validator, {name: timed(one) for name, one in Draft202012Validator.VALIDATORS.items()})
