"""Commands for the places that tasks are worked on in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from loom.cli.output import dim, plural, table
from loom.cli.shared import Group, Reply, answer
from loom.graph.front import Loom
from loom.landing import worktrees
from loom.landing.worktrees import Worktrees


@click.group(cls=Group)
def worktree() -> None:
    """The places that tasks are worked on in, each a git worktree on the branch loom/TASK."""


@worktree.command("list")
def list_() -> None:
    """List them: the task of each, and whether somebody works in it."""

    async def work(loom: Loom) -> Reply:
        trees = await Worktrees.of_project(loom.config, to_make=False)
        found = trees.listed()
        over = await worktrees.over(loom, [one.task_id for one in found])
        rows = [
            {
                "task_id": one.task_id,
                "path": str(one.path),
                "branch": one.branch,
                "in_use": one.in_use,
                "whole": one.whole,
                "over": one.task_id in over,
            }
            for one in found
        ]
        return {"worktrees": rows, "count": len(rows), "earlier": _earlier(loom)}

    def lines(reply: Reply) -> Iterator[str]:
        yield from table([one["task_id"], _state(one), dim(one["path"])] for one in reply["worktrees"])
        yield from _lines_of_earlier(reply) if reply["earlier"] else ()
        if not reply["worktrees"]:
            yield "There are none."

    answer(work, lines)


@worktree.command()
def prune() -> None:
    """Remove those of tasks that are done or cancelled, and what was left half made. What is in no other branch, or
    not committed, stays and is named."""

    async def work(loom: Loom) -> Reply:
        trees = await Worktrees.of_project(loom.config, to_make=False)
        told = await worktrees.tidy(loom, trees)
        return {
            "removed": [name for name, kept in told.items() if not kept],
            "kept": [{"task_id": name, "why": kept} for name, kept in told.items() if kept],
            "earlier": _earlier(loom),
        }

    def lines(reply: Reply) -> Iterator[str]:
        yield f"{plural(len(reply['removed']), 'worktree')} removed."
        yield from table([one["task_id"], f"stays: {one['why']}"] for one in reply["kept"])
        yield from _lines_of_earlier(reply)

    answer(work, lines)


def _state(one: dict[str, Any]) -> str:
    if one["in_use"]:
        return "in use"
    if not one["whole"]:
        return "half made"
    return "over" if one["over"] else "waits"


def _earlier(loom: Loom) -> list[str]:
    return [str(one) for one in worktrees.of_earlier_versions(loom.config.project_dir or Path())]


def _lines_of_earlier(reply: Reply) -> Iterator[str]:
    """Names what Loom leaves alone, and how a person removes it: git refuses where something would be lost."""
    for path in reply["earlier"]:
        yield f"{path}  is of an earlier version of Loom; to remove it: git worktree remove {path}"
