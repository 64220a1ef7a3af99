"""What is wrong with a project and where it runs, and how to mend it, as `loom doctor` and the board say alike."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom import services
from loom.config import LandingConfig, LoomConfig
from loom.exceptions import CommandError
from loom.texts import plural
from loom.wording import Shell, Words, call

if TYPE_CHECKING:
    from loom.graph.front import Loom

_DEAD_NAMED = 10
_SEE = Words("See {}.", call("status", view="escalations"))
_ELSEWHERE = "Work with the user, home and LOOM_DATA_DIR of then, or create a task here to begin anew."


@dataclass(frozen=True)
class Remark:
    """One line of the report. `level` is ok, note (worth knowing) or bad (something does not hold); `mend` is
    what to do about it, in words that are the face's where they name a command."""

    level: str
    check: str
    found: str = ""
    mend: str = ""

    @property
    def rank(self) -> int:
        """What to look at first has the lowest."""
        return ("bad", "note", "ok").index(self.level)


def servers(config: LoomConfig) -> Iterator[Remark]:
    """Whether the servers answer."""
    for server in services.check(config):
        # Without Redis every command works, from Postgres alone.
        level = "ok" if server.running else "bad" if server.name == "PostgreSQL" else "note"
        name = f"{server.name} {server.version}" if server.version else server.name
        yield Remark(level, name, server.where, server.hint)


def settings(config: LoomConfig) -> Iterator[Remark]:
    """Where they come from, and what of the settings does not count."""
    yield Remark("ok", "servers", f"{config.servers.backend}, from {config.sources.get('servers.backend', 'default')}")
    for warning in config.warnings:
        yield Remark("note", "settings", warning)


def files(config: LoomConfig) -> Iterator[Remark]:
    """What of the skills and workflows that people have written does not count, or cannot start."""
    from loom.skills import loader as skills
    from loom.workflows import loader as workflows

    known = skills.load(config)
    for note in known.notes:
        yield Remark("note", "skills", note)
    for note in workflows.notes(workflows.load(config), known):
        yield Remark("note", "workflows", note)


def worktrees(config: LoomConfig) -> Iterator[Remark]:
    """The worktrees that Loom made where it makes none any more, and leaves alone."""
    if config.project_dir is not None:
        from loom.landing.worktrees import of_earlier_versions

        for path in of_earlier_versions(config.project_dir):
            remove = Shell(f"git worktree remove {shlex.quote(str(path))}")
            found = f"{path} is of an earlier version of Loom"
            yield Remark("note", "worktrees", found, Words("It can be removed with {}.", remove))


async def git(config: LoomConfig) -> list[Remark]:
    """Whether git is there and new enough, where work is to land."""
    if config.landing == LandingConfig():
        return []
    from loom.git import version

    try:
        return [Remark("ok", "git", await version())]
    except CommandError as error:
        return [Remark("bad", "git", error.cause, error.next_step)]


async def graph(loom: Loom, *, deep: bool = False) -> list[Remark]:
    """Whether the invariants hold, what is dead, and what waits for somebody. Raises LoomError."""
    status = await loom.status()
    dead = await loom.dead_letters(limit=_DEAD_NAMED)
    found = await loom.doctor(deep=deep)
    remarks = [Remark("ok" if one.holds else "bad", one.rule, one.found, one.advice) for one in found]
    if loom.notice:
        remarks.append(Remark("bad", "data", loom.notice, _ELSEWHERE))
    if status.dead_letters:
        remarks.append(Remark("note", "dead work", plural(status.dead_letters, "dead letter")))
    for one in dead:
        held = f", holds up {', '.join(one.held_up[:5])}{' and others' if one.held_up_count > 5 else ''}"
        what = f"{one.task.title}{held if one.held_up else ''}"
        decide = call("resolve", id=one.task.id, action=...)
        remarks.append(
            Remark("note", one.task.id, what, Words("Decide about it with {}: retry, waive or cancel.", decide))
        )
    if status.open_escalations:
        count = plural(status.open_escalations, "open escalation")
        remarks.append(Remark("note", "escalations", count, _SEE))
    if status.deferred:
        held = f"{plural(status.deferred, 'task')} held until somebody says so"
        remarks.append(Remark("note", "deferred", held, _SEE))
    return remarks
