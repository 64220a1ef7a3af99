"""`loom doctor`: what is wrong, and how to mend it. It starts nothing and changes only, with `--deep`, the mirror, and
how many tasks are said to be there."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import click

from loom.cli import installed
from loom.cli.output import dim, emit, plural
from loom.cli.shared import Command, open_project, progress, settings_here, wants_json
from loom.cli.wording import people
from loom.config import LoomConfig
from loom.exceptions import LoomError
from loom.orchestration import checkup
from loom.orchestration.checkup import Remark
from loom.texts import one_line
from loom.wording import worded

_APART = "Install this Loom into an environment of its own: `pipx install .` in a clone of its repository."
_BEFORE = "Put the directory of this Loom before that one on PATH."


@click.command(cls=Command)
@click.option(
    "--deep", is_flag=True, help="Build the mirror in Redis anew from Postgres, count all tasks anew, then check."
)
def doctor(deep: bool) -> None:
    """Check servers, settings, agents' wiring, skills, workflows, and every invariant of the graph. Exit status 1:
    something is bad."""
    config = settings_here()
    remarks = [
        *checkup.servers(config),
        *_installed(),
        *checkup.settings(config),
        *_wiring(config),
        *_not_ours(config),
        *checkup.files(config),
        *checkup.worktrees(config),
        *asyncio.run(checkup.git(config)),
    ]
    if config.project_id is None:
        remarks.append(Remark("note", "project", "there is none here", "Run `loom init` in its directory."))
    elif remarks[0].level == "ok":
        progress("Building the mirror anew and checking the graph." if deep else "Checking the graph.")
        remarks += asyncio.run(_graph(config, deep))
    else:
        remarks.append(Remark("note", "graph", "not checked: PostgreSQL does not run"))
    remarks = [replace(one, mend=worded(one.mend, people())) for one in remarks]
    bad = sum(one.level == "bad" for one in remarks)
    if wants_json():
        rows = [{key: value for key, value in asdict(one).items() if value} for one in remarks]
        emit({"ok": not bad, "findings": rows, "count": len(rows)})
    else:
        for line in _lines(remarks):
            click.echo(line)
        click.echo(f"{plural(bad, 'problem')}." if bad else "All is well.")
    if bad:
        click.get_current_context().exit(1)


def _installed() -> Iterator[Remark]:
    """Which Loom this is, and what else of its name stands in the way."""
    packages = installed.in_environment() or [("from a source tree", Path())]
    version = packages[0][0]
    foreign = [f"{one}, in {where}" for one, where in packages if installed.is_foreign(one)]
    for named in foreign:
        yield Remark("bad", "package", f"this Python has {installed.PACKAGE} {named}, another product", _APART)
    if not foreign:
        yield Remark("ok", "Loom", version)
    programs = installed.on_path()
    for number, program in enumerate(programs):
        if program.version is None:
            found, mend = f"{program.path} may not be Loom's", "See what it is; it comes before others on PATH."
        elif program.foreign:
            found, mend = f"{program.path} is {installed.PACKAGE} {program.version}, another product", _BEFORE
        elif program.version != version and not number:
            found, mend = (
                f"{program.path} is Loom {program.version}, and this is {version}",
                "Install one version.",
            )
        else:
            continue
        if not number or program.foreign:
            yield Remark("note", "PATH", found, mend)


def _wiring(config: LoomConfig) -> Iterator[Remark]:
    """Whether an agent's client finds the server in `.mcp.json`."""
    if config.project_dir is None:
        return
    from loom.cli import wiring

    try:
        entry = wiring.entry(config.project_dir)
    except LoomError as error:
        yield _told("note", ".mcp.json", error)
        return
    if entry is None:
        yield Remark("note", ".mcp.json", "has no server `loom`", "Run `loom init`.")
        return
    command = str(entry.get("command", "")).replace("${CLAUDE_PROJECT_DIR:-.}", str(config.project_dir))
    program = shutil.which(command)
    if program is not None and (started := installed.look(Path(program))).foreign and Path(program).name == "loom":
        found = f"starts {program}, which is {installed.PACKAGE} {started.version}, another product"
        yield Remark("bad", ".mcp.json", found, f"{_BEFORE} Then run `loom up`.")
    elif program is None:
        yield Remark(
            "note",
            ".mcp.json",
            f"starts {command}, which is not on PATH",
            "Run `loom up`, or install Loom for your user.",
        )
    else:
        yield Remark("ok", ".mcp.json", f"starts {command} {' '.join(map(str, entry.get('args', ())))}")


def _not_ours(config: LoomConfig) -> Iterator[Remark]:
    """What of `.mcp.json` a client would obey and Loom did not write."""
    from loom.cli import wiring

    if config.project_dir is not None:
        with suppress(LoomError):  # told already
            for one in wiring.not_ours(config.project_dir):
                yield Remark("note", ".mcp.json", f"Loom did not write {one}", "Read it before a client starts it.")


async def _graph(config: LoomConfig, deep: bool) -> list[Remark]:
    try:
        async with open_project(config=config) as loom:
            return await checkup.graph(loom, deep=deep)
    except LoomError as error:
        return [_told("bad", "graph", error)]


def _told(level: str, check: str, error: LoomError) -> Remark:
    return Remark(level, check, worded(error.cause, people()), error.next_step)


def _lines(remarks: list[Remark]) -> Iterator[str]:
    colours = {"ok": "green", "note": "yellow", "bad": "red"}
    for one in remarks:
        found = f": {one_line(one.found)}" if one.found else ""
        yield f"{click.style(f'{one.level:<4}', fg=colours[one.level])}  {one.check}{found}"
        if one.mend and one.level != "ok":
            yield f"      {dim(one_line(one.mend))}"
