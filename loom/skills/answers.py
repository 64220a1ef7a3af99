"""What a model answered: found in its text, and held against the schema that it was given."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from loom import texts
from loom.exceptions import AnswerError, InvalidInputError
from loom.graph.model import limits
from loom.skills import schemas

ANSWER_BYTES = 5_000_000
PROBLEMS_TOLD = 20
_FENCE = re.compile(r"```(?:json)?[ \t]*\n\s*(?=\{)")


def read(text: str) -> dict[str, Any]:
    """The JSON object of an answer: the whole text, the first fenced block, or what begins with the first brace.

    Raises:
        AnswerError: there is none; says why.
    """
    if len(text.encode(errors="replace")) > ANSWER_BYTES:
        raise AnswerError(f"The answer is larger than {ANSWER_BYTES // 1_000_000} MB.", "Answer more briefly.")
    stripped = text.strip().removeprefix("\ufeff")
    fence, brace = _FENCE.search(stripped), stripped.find("{")
    if brace < 0:
        raise AnswerError("The answer has no JSON object.", "Answer with one JSON object and nothing else.")
    fault = ""
    for start in dict.fromkeys((0 if brace == 0 else -1, fence.end() if fence else -1, brace)):
        if start < 0:
            continue
        try:
            found, _ = json.JSONDecoder().raw_decode(stripped, start)
        except (ValueError, RecursionError) as error:
            fault = fault or _place(error, stripped)
        else:
            if isinstance(found, dict):
                return found
    raise AnswerError(f"The answer is not valid JSON: {fault}.", "Answer with one JSON object and nothing else.")


def problems(answer: object, schema: Mapping[str, Any]) -> list[str]:
    """What is wrong with an answer, a sentence each, up to a limit; empty if nothing is. It may take seconds."""
    try:
        limits.json_object(answer, "output", ANSWER_BYTES)
    except InvalidInputError as error:
        return [str(error)]
    if not schemas.usable(schema):
        return ["The schema of this answer uses what Loom no longer holds answers against. Begin the run anew."]
    try:
        found = schemas.errors(answer, schema, PROBLEMS_TOLD)
    except schemas.TooLongError:
        return [f"The answer takes more than {schemas.SECONDS:g} seconds to be held against its schema. Answer less."]
    return [f"{_path(error.absolute_path)}: {texts.clean(_short(error.message))}" for error in found]


def _path(parts: Any) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return texts.shorten(f"output{path}", 120)


def _short(text: str) -> str:
    """A fault with both its ends: it begins with the value, which may be long, and ends with what is wrong with it."""
    return text if len(text) <= 240 else f"{text[:160]}…{text[-79:]}"


def _place(error: Exception, text: str) -> str:
    if isinstance(error, json.JSONDecodeError):
        cut = ", which is where it ends" if error.pos >= len(text) - 1 else ""
        return f"{error.msg} in line {error.lineno}, column {error.colno}{cut}"
    return "nested too deep" if isinstance(error, RecursionError) else "a number is too long"
