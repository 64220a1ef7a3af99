"""What sentences say to people: calls are command lines, arguments are options or what stands in their place."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from loom.wording import Argument, Call, Face, InputName, Moment, Named, Shell

_PLACES: Mapping[str, tuple[str, ...]] = {
    "claim": ("task_id",),
    "create": ("title",),
    "decompose": ("goal",),
    "done": ("task_id",),
    "escalate": ("task_id", "message"),
    "fail": ("task_id",),
    "heartbeat": ("task_ids",),
    "list": ("filter",),
    "message": ("to", "message"),
    "release": ("task_id",),
    "resolve": ("id", "action"),
    "skill": ("name", "run_id"),
    "status": ("task_id",),
    "update": ("task_id",),
    "workflow": ("action", "name", "run_id"),
}
"""The arguments that a command takes without an option, in order."""

_STANDS_FOR: Mapping[str, str] = {
    "action": "ACTION",
    "filter": "FILTER",
    "goal": "GOAL",
    "id": "ID",
    "message": "TEXT",
    "name": "NAME",
    "run_id": "RUN",
    "task_id": "TASK",
    "task_ids": "TASK",
    "title": "TITLE",
    "to": "TO",
}
"""What help calls them."""

_OPTIONS: Mapping[str, str] = {
    "ack": "--ack ID",
    "agent": "--agent NAME",
    "agent_id": "--agent NAME",
    "by": "--by WHAT",
    "checks": "--checks NAME",
    "labels": "--label NAME",
    "confirm": "--yes",
    "context": "--context JSON",
    "depends_on": "--depends-on TASK",
    "done_when": "--done-when TEXT",
    "downstream": "--downstream",
    "epic": "--epic",
    "files": "--files PATH",
    "format": "--format FORMAT",
    "inputs": "--inputs JSON",
    "key": "--key TEXT",
    "lease_seconds": "--lease SECONDS",
    "limit": "--limit N",
    "message": "--from FILE",
    "note": "--note TEXT",
    "output": "--output JSON",
    "parent_id": "--parent TASK",
    "plan": "--plan FILE",
    "plan_id": "--plan ID",
    "priority": "--priority PRIORITY",
    "reason": "--reason TEXT",
    "root": "--root TASK",
    "since": "--since POSITION",
    "spec_path": "--from FILE",
    "task_id": "--task TASK",
    "thread_id": "--thread ID",
    "timeout": "--timeout SECONDS",
    "title": "--title TEXT",
    "token": "--token N",
    "view": "--view VIEW",
    "what": "--what WHAT",
}
"""The option for each argument of a tool, and what its value is called."""

_ELSE: Mapping[tuple[str, str], str] = {
    ("resolve", "agent_id"): "--to NAME",
    ("resolve", "task_id"): "ID",
    ("watch", "seconds"): "--since WHEN",
    ("workflow resume", "inputs"): "--output JSON",
}
"""Where a command has another option for it."""

_YES = {"yes": True}  # the answer that has an option of its own


def people(command: str = "", places: Collection[str] = ()) -> Face:
    """The words of this face, where `command` runs; `places`: what its usage calls the arguments that it takes without
    an option."""

    def face(named: Named) -> str:
        match named:
            case Call(verb, arguments):
                given = dict(arguments)
                verb = "list" if "filter" in given else verb  # an agent's view, and a person's command
                return f"`{' '.join(['loom', verb, *_words(verb, given)])}`"
            case Argument(name):
                return _name(command, places, name)
            case InputName(name):
                return f"--input {name}=VALUE"
            case Shell(line):
                return f"`{line}`"
            case Moment(at):
                from loom.cli.times import when

                return when(at.isoformat())

    return face


def _name(command: str, places: Collection[str], name: str) -> str:
    """What an argument is called: TASK, or --agent."""
    if (place := _STANDS_FOR.get(name)) is not None and place in places:
        return place
    return _ELSE.get((command, name), _OPTIONS.get(name, _STANDS_FOR.get(name, name))).partition(" ")[0]


def _words(verb: str, given: Mapping[str, Any]) -> Iterator[str]:
    """The words of a command line after the command's name."""
    if verb == "skill":
        yield "run" if given else "list"
    command = f"{verb} {given['action']}" if verb == "workflow" else verb
    places = _PLACES.get(verb, ())
    for name in places:
        if name in given:
            yield _STANDS_FOR[name] if given[name] is ... else shlex.quote(str(given[name]))
    for name, value in given.items():
        if name not in places:
            option, _, stands_for = _ELSE.get((command, name), _OPTIONS.get(name, "")).partition(" ")
            yield "--yes" if value == _YES else option
            if stands_for and value != _YES:
                yield stands_for if value is ... else shlex.quote(str(value))
