"""Schemas of answers: what they may not use, and that no answer keeps Loom busy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from loom.skills import answers, schemas

ANSWER = {"a": "b", "pattern": "a" * 40 + "!", "list": [1, 2], "more": {"x": None}}


def within(part: object) -> list[dict[str, Any]]:
    """A subschema in every place where one can be."""
    base: dict[str, Any] = {"type": "object"}
    return [
        *({**base, "properties": {"a": {one: part}}} for one in ("items", "contains", "not", "if", "then", "else")),
        *({**base, one: part} for one in ("additionalProperties", "propertyNames", "not")),
        *({**base, one: [{}, part]} for one in ("allOf", "anyOf", "oneOf", "prefixItems")),
        *({**base, one: {"properties": part}} for one in ("properties", "dependentSchemas")),
        {**base, "properties": {"properties": {"properties": {"items": part}}}},
        {**base, "dependentSchemas": {"properties": {"properties": {"patternProperties": part}}}},
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("$ref", "#"),
        ("$ref", "http://127.0.0.1/x"),
        ("$dynamicRef", "#x"),
        ("$recursiveRef", "#"),
        ("$defs", {}),
        ("definitions", {}),
        ("$id", "http://127.0.0.1/x"),
        ("$anchor", "x"),
        ("$schema", "http://json-schema.org/draft-04/schema#"),
        ("$schema", "https://json-schema.org/draft/2020-12/schema"),
        ("pattern", "^(a+)+$"),
        ("patternProperties", {"^(a+)+$": {}}),
        ("uniqueItems", True),
        ("unevaluatedProperties", False),
        ("unevaluatedItems", False),
        ("dependencies", {"a": {"pattern": "^(a+)+$"}}),
        ("extends", {}),
        ("anything", 1),
    ],
)
def test_a_keyword_that_skills_do_not_have_is_refused_wherever_it_stands(name: str, value: object) -> None:
    for schema in within({name: value}):
        fault = schemas.fault_of(schema)
        assert fault, schema
        assert f" uses {name}, which skills do not have" in fault
        assert answers.problems(ANSWER, schema) == [
            "The schema of this answer uses what Loom no longer holds answers against. Begin the run anew."
        ]


@pytest.mark.parametrize("name", ["$ref", "pattern", "patternProperties", "properties", "items", "anything", "type"])
def test_a_property_may_have_any_name(name: str) -> None:
    for schema in within({"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}):
        assert schemas.fault_of(schema) is None, schema
    assert schemas.fault_of({"type": "object", "enum": [{name: 1}], "const": {name: 1}, "default": {name: 1}}) is None


@pytest.mark.parametrize("wrong", [{"properties": 3}, {"allOf": {}}, {"items": [{}]}, {"type": "objekt"}, {"not": 1}])
def test_a_value_of_the_wrong_shape_is_refused(wrong: dict[str, Any]) -> None:
    fault = schemas.fault_of({"type": "object", **wrong})
    assert fault
    assert fault.startswith("`outputs` is not a valid JSON schema: ")


def test_the_dialect_may_be_named() -> None:
    assert schemas.fault_of({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}) is None


def test_a_schema_is_nested_only_so_deep() -> None:
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"not": deep}
    assert "nested more than 20 deep" in str(schemas.fault_of({"type": "object", "not": deep}))
    assert "nested more than 20 deep" in str(schemas.fault_of({"type": "object", "const": [[[[deep]]]]}))


async def test_an_answer_that_takes_long_is_given_up_while_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "SECONDS", 0.5)
    branch = {"properties": {"a": {"items": {"anyOf": [{"type": "string"}] * 500}}}}
    schema = {"type": "object", "anyOf": [branch] * 50}
    checking = asyncio.create_task(asyncio.to_thread(answers.problems, {"a": [{"b": "c" * 900}] * 5_000}, schema))
    turns = 0
    while not checking.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert checking.result() == ["The answer takes more than 0.5 seconds to be held against its schema. Answer less."]
    assert turns > 5
