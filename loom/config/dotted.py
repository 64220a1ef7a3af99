"""Keys by their dotted names: looked up, found in nested mappings, and made into the dataclass whose fields they are.

`mcp.port` is the field `port` of the section `mcp`, and `checks.unit.timeout` that of the row `unit` of a table
`checks`; `keys.py` says how a dataclass has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from loom.config.rules import ROW_NAME, Rule, UnfitError

_ROWS = 100  # of one table
_ALIKE = 0.7  # of 1: an unknown key and what was perhaps meant
_LONGEST_KEY = 80  # of an unknown one, that is compared with those there are


class Keys(Mapping[str, Rule]):
    """The keys of a dataclass by dotted name. Listed, the name of a table's row is `*`; looked up, it is any."""

    def __init__(self, cls: type[Any]) -> None:
        self._cls = cls
        self._rules: dict[str, Rule] = {}
        self._holders: set[str] = set()  # sections, tables and rows
        self._tables: set[str] = set()
        self._enter(cls, "")

    def __getitem__(self, key: str) -> Rule:
        return self._rules[self._pattern(key)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def holds_keys(self, key: str) -> bool:
        """Whether this is a section, a table or a row of one."""
        return self._pattern(key) in self._holders

    def row_of(self, key: str) -> str | None:
        """The row of a table that this key stands in, or is; None for one that stands in no table."""
        parts = key.split(".")
        ends = (end for end, part in enumerate(self._pattern(key).split("."), 1) if part == "*")
        return next((".".join(parts[:end]) for end in ends), None)

    def guards(self, key: str, value: object) -> bool:
        """Whether this value of a key, or of a row, counts in a project's file only once it is trusted."""
        return self[key].guards(value) if self.row_of(key) is None else self._in_row(key, "guarded")

    def binds(self, name: str) -> bool:
        """Whether this key, or row, is a demand that nobody lifts by taking it out of a file."""
        if self.row_of(name) == name:
            return self._in_row(name, "binding")
        return name in self and self[name].binding

    def place(self, key: str) -> tuple[int, str]:
        """Sorts dotted names into the order of the dataclass, rows by name."""
        return list(self._rules).index(self._pattern(key)), key

    def flat(self, data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        """The dotted keys of nested mappings and their values, unknown ones too; without a value one counts as absent.

        Raises:
            UnfitError: a section, table or row is something else, or a row has no name that can be used.
        """
        for name, value in data.items():
            key = f"{prefix}{name}"
            if value is None:
                continue
            if not self.holds_keys(key):
                yield key, value
                continue
            if not isinstance(value, dict):
                raise UnfitError("a mapping of keys", key)
            if self._pattern(key) in self._tables:
                if len(value) > _ROWS:
                    raise UnfitError(f"a mapping of at most {_ROWS} names", key)
                if any(not re.fullmatch(ROW_NAME, row) for row in value):
                    raise UnfitError("a mapping whose names are up to 64 of A-Z, a-z, 0-9, - and _", key)
            yield from self.flat(value, f"{key}.")

    def build(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """What the dataclass is made with, from checked values by dotted key; and the keys that rows lack and must
        have: those rows are left out."""
        lacking: list[str] = []
        return self._build(self._cls, values, "", lacking), lacking

    def of(self, config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """The dotted keys of an object of this dataclass, and their values."""
        for item in fields(config):  # type: ignore[arg-type]
            key, value = f"{prefix}{item.name}", getattr(config, item.name)
            if "rule" in item.metadata:
                yield key, value
            elif "table" in item.metadata:
                for name, row in value.items():
                    yield from self.of(row, f"{key}.{name}.")
            elif is_dataclass(value):
                yield from self.of(value, f"{key}.")

    def nearest(self, key: str) -> str | None:
        """The valid key that is most like an unknown one, where one is like it, as a whole or in its last word."""
        import difflib  # which no command needs that is typed right

        key = key[:_LONGEST_KEY]

        def likeness(valid: str) -> tuple[float, float]:
            whole = difflib.SequenceMatcher(None, key, valid).ratio()
            last = difflib.SequenceMatcher(None, key.rpartition(".")[2], valid.rpartition(".")[2]).ratio()
            return whole, last

        name = (self.row_of(key) or "*").rpartition(".")[2]
        valid = self._rules if "." in key else [*self._rules, *self._holders]
        near = {found: likeness(found) for found in (one.replace("*", name, 1) for one in valid)}
        nearest = max(near, key=lambda one: sum(near[one]))
        return nearest if max(near[nearest]) >= _ALIKE else None

    def _enter(self, cls: type[Any], prefix: str) -> None:
        for item in fields(cls):
            key = f"{prefix}{item.name}"
            if "rule" in item.metadata:
                self._rules[key] = item.metadata["rule"]
            elif "table" in item.metadata:
                self._holders |= {key, f"{key}.*"}
                self._tables.add(key)
                self._enter(item.metadata["table"], f"{key}.*.")
            elif is_dataclass(item.default_factory):
                self._holders.add(key)
                self._enter(item.default_factory, f"{key}.")

    def _in_row(self, key: str, what: str) -> bool:
        """Whether a key of the row that this is, or stands in, has this in its rule."""
        start = f"{self._pattern(self.row_of(key) or key)}."
        return any(getattr(rule, what) for one, rule in self._rules.items() if one.startswith(start))

    def _pattern(self, key: str) -> str:
        parts = key.split(".")
        for end in range(1, len(parts)):
            if ".".join(parts[:end]) in self._tables:
                parts[end] = "*"
        return ".".join(parts)

    def _build(self, cls: type[Any], values: Mapping[str, Any], prefix: str, lacking: list[str]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for item in fields(cls):
            key = f"{prefix}{item.name}"
            if key in values:
                made[item.name] = values[key]
            elif "table" in item.metadata:
                made[item.name] = self._rows(item.metadata["table"], values, key, lacking)
            elif is_dataclass(item.default_factory):
                part = item.default_factory
                made[item.name] = part(**self._build(part, values, f"{key}.", lacking))
        return made

    def _rows(self, cls: type[Any], values: Mapping[str, Any], table: str, lacking: list[str]) -> dict[str, Any]:
        rows: dict[str, Any] = {}
        needed = [item.name for item in fields(cls) if item.default is item.default_factory is MISSING]
        start = len(table) + 1
        for name in dict.fromkeys(key[start:].partition(".")[0] for key in values if key.startswith(f"{table}.")):
            missing = [f"{table}.{name}.{one}" for one in needed if f"{table}.{name}.{one}" not in values]
            lacking += missing
            if not missing:
                rows[name] = cls(**self._build(cls, values, f"{table}.{name}.", lacking))
        return rows
