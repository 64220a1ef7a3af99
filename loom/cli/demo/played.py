"""`loom demo FILE`: a plan of the user's, with agents that are processes of their own and speak MCP to servers of their
own, as coding agents do. Only their work is made up."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Protocol

import click

from loom import files
from loom.bus.events import Event, EventType
from loom.cli.board import offer
from loom.cli.init import initialise
from loom.cli.output import dim, emit, heading, plural, status, table
from loom.cli.servers import bring_up
from loom.cli.shared import note, open_project, progress, read_text, wants_json
from loom.cli.times import when
from loom.cli.transfer import bring_in
from loom.config import LoomConfig, find_project, load_config, logs_dir
from loom.exceptions import TaskStateError
from loom.graph.front import Loom
from loom.process import ProcessTrees, Tree, environment
from loom.texts import one_line


def play(file: str, agents: int) -> int:
    """Has agents pretend to work through a file that `loom import` reads. Returns how many tasks are unfinished."""
    begin = time.monotonic()
    text, name = read_text(file), "standard input" if file == "-" else PurePath(file).name
    root = place()
    if find_project(root) is None:
        progress(f"Making {root} a Loom project.")
        if advice := initialise(root).advice:
            note(advice)
    config = load_config(root)
    bring_up(config)
    return asyncio.run(_play(config, text, name, agents, begin))


async def _play(config: LoomConfig, text: str, name: str, agents: int, begin: float) -> int:
    """Imports the plan, lets the agents work, and tells what happened. Returns how many tasks are unfinished."""
    async with open_project(config=config) as loom:
        counts = (await loom.status()).counts
        if unfinished := _unfinished(counts):
            raise TaskStateError(
                f"This project has {plural(unfinished, 'unfinished task')}, which the demo would only pretend to do.",
                "Run it in an empty directory.",
            )
        planted = await bring_in(loom, text, name, name)
        counts = (await loom.status()).counts
        if not counts["pending"]:
            finished = counts["done"] + counts["cancelled"]
            said = (
                f"There is nothing to do: all {plural(finished, 'task')} are finished."
                if not _unfinished(counts)
                else f"Nothing is ready: {plural(_unfinished(counts), 'task')} wait for work that was given up."
            )
            _tell_nothing(planted, counts, said)
            return _unfinished(counts)
        progress(f"{plural(planted['created'], 'task')} in the graph; starting {plural(agents, 'agent')}.")
        story = _Story([f"agent-{number}" for number in range(1, agents + 1)], counts)
        if not wants_json():
            await asyncio.to_thread(offer, config, loom.agent)
        since = (await loom.wait("any", timeout=0)).since
        worked = time.monotonic()
        async with _running(config, story.agents) as running:
            with _view(story) as view:
                await _follow(loom, story, view, running, since)
        left = _unfinished(story.counts)
        _tell(story, left, config, time.monotonic() - begin, time.monotonic() - worked)
        return left


async def _follow(loom: Loom, story: _Story, view: _View, running: asyncio.Future[Any], since: str) -> None:
    """Shows what happens, until the agents have ended and nothing happens any more."""
    while True:
        ended = running.done()
        seen = await loom.wait("any", since=since, timeout=0.5)
        since = seen.since
        for event in seen.events:
            await _note(loom, story, event)
        story.counts = (await loom.status()).counts
        view.show(story)
        if ended and not seen.changed:
            return


@dataclass
class _Story:
    """What has happened so far: how the tasks stand, what each agent is at, and what it has done."""

    agents: Sequence[str]
    counts: dict[str, int]
    at: dict[str, str] = field(default_factory=dict)
    done: dict[str, list[str]] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)


async def _note(loom: Loom, story: _Story, event: Event) -> None:
    agent = event.agent
    if event.task_id is None or agent is None or agent not in story.agents:
        return
    if event.type not in (EventType.TASK_CLAIMED, EventType.TASK_DONE):
        return
    task = (await loom.get(event.task_id)).task
    title = one_line(task.title)
    if event.type == EventType.TASK_CLAIMED:
        word, story.at[agent] = "claimed", title
    elif task.assignee is None:
        word = "closed"  # an epic, by the last of its tasks
    else:
        word = "done"
        story.at.pop(agent, None)
        story.done.setdefault(agent, []).append(title)
    at = when(event.created_at.isoformat()) if event.created_at else ""
    story.news.append(f"{dim(at)}  {agent}  {status(word)}{' ' * (7 - len(word))}  {task.id}  {title}")


# --- where and what -------------------------------------------------------------------------------------------------


def place() -> Path:
    """Where the plan is played: here, unless this is the home directory or a repository that has files of its own but
    is no Loom project."""
    here = Path.cwd()
    if (found := find_project(here)) is not None:
        return found
    in_repository = any((directory / ".git").exists() for directory in (here, *here.parents))
    own = any(not one.name.startswith(".") for one in here.iterdir())
    if here != Path.home() and not (in_repository and own):
        return here
    place = here / "loom-demo"
    place.mkdir(exist_ok=True)
    return place


def _unfinished(counts: dict[str, int]) -> int:
    return sum(number for name, number in counts.items() if name not in ("done", "cancelled", "epic"))


# --- the agents -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _running(config: LoomConfig, names: Sequence[str]) -> AsyncIterator[asyncio.Future[Any]]:
    """The end of the agents, each with a log of its own. Nothing that they started outlives this."""
    assert config.project_dir is not None
    logs = logs_dir(config)
    trees: list[Tree] = []
    with ProcessTrees() as started:
        try:
            for name in names:
                trees.append(
                    await started.start(
                        [sys.executable, "-P", "-m", "loom.cli.demo.player"],
                        text="",
                        env=environment({"LOOM_PROJECT_DIR": str(config.project_dir), "LOOM_AGENT_ID": name}),
                        cwd=config.project_dir,
                        log=files.log(logs / f"demo-{name}.log", logs.parent, most=0),
                    )
                )
            yield asyncio.gather(*(tree.wait() for tree in trees))
        finally:
            for tree in trees:
                tree.stop()
            await asyncio.gather(*(tree.wait() for tree in trees))


# --- what is to be seen ---------------------------------------------------------------------------------------------


class _View(Protocol):
    def show(self, story: _Story) -> None: ...


class _Lines:
    """A line per event; nothing when the answer is to be JSON."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def show(self, story: _Story) -> None:
        if not self._quiet:
            for line in story.news:
                click.echo(line)
        story.news.clear()


class _Live:
    """On a terminal: how far it is, what each agent is at, and the last news, redrawn in place."""

    _NEWS = 8

    def __init__(self, live: Any) -> None:
        self._live = live

    def show(self, story: _Story) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        total = sum(story.counts.values()) - story.counts["cancelled"]
        grid = Table.grid(padding=(0, 2))
        for name in story.agents:
            at = story.at.get(name)
            grid.add_row(
                Text(name, style="bold"),
                f"{len(story.done.get(name, ())):>3} done",
                Text(at or "waits", "cyan" if at else "dim"),
            )
        head = Table.grid(padding=(0, 2))
        head.add_row(
            ProgressBar(total, story.counts["done"], width=40), f"{story.counts['done']} of {total} tasks done"
        )
        news = [Text.from_ansi(line, no_wrap=True, overflow="ellipsis") for line in story.news[-self._NEWS :]]
        self._live.update(Group(head, grid, Text(""), *news))


@contextmanager
def _view(story: _Story) -> Iterator[_View]:
    if wants_json() or not sys.stdout.isatty():
        yield _Lines(quiet=wants_json())
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(no_color=bool(os.environ.get("NO_COLOR"))), refresh_per_second=8) as live:
        yield _Live(live)


def _tell_nothing(planted: Any, counts: dict[str, int], said: str) -> None:
    if wants_json():
        emit({"created": planted["created"], "counts": counts, "note": said})
    else:
        click.echo(said)


def _tell(story: _Story, left: int, config: LoomConfig, seconds: float, worked: float) -> None:
    assert config.project_dir is not None
    if wants_json():
        emit(
            {
                "counts": story.counts,
                "unfinished": left,
                "seconds": round(seconds, 1),
                "agents": {name: story.done.get(name, []) for name in story.agents},
            }
        )
        return
    total = sum(len(titles) for titles in story.done.values())
    click.echo()
    click.echo(
        heading(f"{plural(total, 'task')} done by {plural(len(story.agents), 'agent')} in {worked:.0f} s")
        + dim(f", {seconds:.0f} s from the start; each task by exactly one of them, none before what it waits for.")
    )
    for line in table(
        [[name, str(len(story.done.get(name, []))), ", ".join(story.done.get(name, []))] for name in story.agents], "  "
    ):
        click.echo(line)
    if left:
        click.echo(
            f"{plural(left, 'task')} unfinished; the agents' logs are in {config.project_dir / '.loom' / 'logs'}."
        )
    click.echo(heading("Next"))
    here = [] if config.project_dir == Path.cwd() else [[f"cd {config.project_dir.name}", "go there"]]
    typed = [
        ["loom status", "the project at a glance"],
        ["loom graph --format mermaid", "the graph, to look at"],
        ['loom create "My first task"', "more work; `loom watch` in another terminal shows what happens"],
        ["claude", "Claude Code finds Loom's tools here in .mcp.json"],
        ["loom down", "stop the servers; nothing is lost"],
    ]
    for line in table([*here, *typed], "  "):
        click.echo(line)
