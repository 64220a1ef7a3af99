"""Checks: commands with a name in the configuration, which say with exit status 0 that work is as it should be.

Agents name checks, they do not write them: in force is what the user trusts, and what is named and not in force
refuses. A proof counts for a check as it is: its digest changes with whatever makes the check another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from loom import bridge, process
from loom.config import CheckConfig, LoomConfig
from loom.exceptions import ConfigError
from loom.graph.model.task import Task
from loom.graph.rules.proofs import not_in_force
from loom.wording import Shell, Words

ALWAYS_PROTECTED = ".loom"


@dataclass(frozen=True, slots=True)
class Check:
    """A check in force. `variables`: those that are passed on to it, with their values. `digest`: what its proofs are
    known by."""

    name: str
    command: tuple[str, ...]
    timeout: int
    protect: tuple[str, ...]
    keep: tuple[str, ...]
    variables: Mapping[str, str] = field(repr=False)
    proofs: str
    digest: str


def in_force(config: LoomConfig) -> dict[str, Check]:
    """The checks that count, by name. One that somebody has changed or taken out of the project's file since it was
    trusted does not, whatever another layer says."""
    away = set(config.withheld)
    return {name: _check(name, row, config) for name, row in config.checks.items() if f"checks.{name}" not in away}


def demanded(config: LoomConfig, task: Task) -> list[Check]:
    """The checks that a task is done only with: those that every task needs, and its own.

    Raises:
        ProofMissingError: one is named and not in force.
    """
    return named(config, dict.fromkeys((*every(config), *task.checks)), task.id)


def every(config: LoomConfig) -> tuple[str, ...]:
    """The names of those that every task needs; where the key for them is held back it stands for them, and is the name
    of none."""
    return (*config.landing.checks, *(key for key in config.withheld if key == "landing.checks"))


def named(config: LoomConfig, names: Iterable[str], what: str = "Everything") -> list[Check]:
    """The checks of these names, which something is done only with. Raises ProofMissingError: one is not in force."""
    there, wanted = in_force(config), list(names)
    if away := [name for name in wanted if name not in there]:
        raise not_in_force(what, away)
    return [there[name] for name in wanted]


def protected(config: LoomConfig) -> tuple[str, ...]:
    """The paths that only a task which declares them may change; `.loom` no task may.

    Raises:
        ConfigError: a check is not in force, so that nobody knows what it protects.
    """
    if away := [name for name in config.withheld if name.startswith("checks.")]:
        raise ConfigError(
            f"What may be changed is not known while a check is not in force: {', '.join(away)}.",
            Words("Put it back as it was, or read it and run {}.", Shell("loom config trust")),
        )
    paths = (path for check in config.checks.values() for path in check.protect)
    return tuple(dict.fromkeys((ALWAYS_PROTECTED, *paths)))


def _check(name: str, row: CheckConfig, config: LoomConfig) -> Check:
    variables = process.environment(only=row.env)
    told = (row.command, sorted(variables.items()), row.keep, config.work.keep, config.work.setup.command)
    digest = hashlib.sha256(json.dumps([*told, row.proofs, bridge.VERSION]).encode()).hexdigest()
    return Check(name, row.command, row.timeout, row.protect, row.keep, variables, row.proofs, digest)
