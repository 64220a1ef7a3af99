"""The values in a workflow: what is written there, or what an expression between {{ and }} comes to.

A text that is one expression has its value, whatever its type; in any other text each expression stands for its text.
Expressions see `inputs`, what the workflow was started with, and `steps`, what earlier steps came to, by their ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from loom.exceptions import WorkflowError
from loom.skills import template

CHARACTERS = 1_000_000  # of all that the expressions of one value come to
_EXPRESSION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def evaluate(value: Any, scope: Mapping[str, Any], *, where: str) -> Any:
    """A JSON value with its expressions carried out.

    Args:
        scope: what the expressions see.
        where: names file, step and key in errors.

    Raises:
        WorkflowError: an expression is not in order, uses something that is not there, or they come to too much.
    """
    return _Evaluation(scope).of(value, where)


def expression(source: str, scope: Mapping[str, Any], *, where: str) -> Any:
    """What one expression comes to. Raises WorkflowError."""
    return template.evaluate(source.strip(), scope, where=where, error=WorkflowError)


def references(value: Any, *, where: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """What a value's expressions use, each as a name and the key of it that is asked for, with where it stands.
    Raises WorkflowError for an expression that is not in order."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from references(one, where=f"{where}.{name}")
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from references(one, where=f"{where}[{place}]")
    elif isinstance(value, str):
        for found in _EXPRESSION.finditer(value):
            yield from used(found[1], where=where)
        if "{{" in _EXPRESSION.sub("", value):
            raise WorkflowError(f"{where}: an expression has no end.", "Close it with }}.")


def used(source: str, *, where: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """As `references`, for one expression."""
    for one in template.references(source.strip(), where=where, error=WorkflowError):
        yield one, where


class _Evaluation:
    """The evaluation of one value, which a few expressions must not make larger than memory."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._scope, self._room = scope, CHARACTERS

    def of(self, value: Any, where: str) -> Any:
        """A part of the value."""
        if isinstance(value, Mapping):
            return {name: self.of(one, f"{where}.{name}") for name, one in value.items()}
        if isinstance(value, list):
            return [self.of(one, f"{where}[{place}]") for place, one in enumerate(value)]
        if not isinstance(value, str):
            return value
        whole = _EXPRESSION.fullmatch(value.strip())
        if whole and "}}" not in whole[1]:
            return self._expression(whole[1], where)
        return _EXPRESSION.sub(lambda found: _text(self._expression(found[1], where)), value)

    def _expression(self, source: str, where: str) -> Any:
        found = expression(source, self._scope, where=where)
        self._room -= len(_text(found))
        if self._room < 0:
            raise WorkflowError(
                f"{where}: the expressions come to more than {CHARACTERS:,} characters.", "Use less of what is there."
            )
        return found


def is_expression(value: Any) -> bool:
    """Whether a value is known only when the step begins."""
    return isinstance(value, str) and _EXPRESSION.search(value) is not None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
