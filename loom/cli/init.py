"""`loom init`: makes a directory a Loom project, and keeps the files it wrote up to date.

Everything is read and thought through before anything is written, so that a file that cannot be used leaves the others
alone. What people or other tools have in these files stays as it is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loom import files, ids, texts
from loom.cli import wiring
from loom.cli.output import table
from loom.cli.shared import Command, can_ask, confirmed, note, wants_json
from loom.cli.textfiles import read, write
from loom.config import (
    COMPOSE_FILE,
    KEYS,
    find_project,
    load_config,
    places,
    set_trusted,
    set_value,
    trust,
    user_config_path,
)
from loom.config.files import read_layer
from loom.exceptions import ConfigError, FileError, InvalidInputError
from loom.texts import one_line

if TYPE_CHECKING:
    from loom.landing.proposing import Proposal

_RUNNERS = ("claude", "codex")

BEGIN, END = "<!-- loom:begin -->", "<!-- loom:end -->"
_BLOCK = f"""{BEGIN}
## Work is planned and claimed with Loom

This project keeps its tasks in Loom, a task graph that many agents share. Use its MCP tools (`loom_claim`,
`loom_done`, ...) where you have them, else the same commands in a shell, with `--json` for answers to parse.

1. `loom claim` gives you the best ready task, what is known about it, and a lease: nobody else works on it meanwhile.
2. Do what it says until its "done when" holds. `loom heartbeat` renews the lease when work takes longer.
3. `loom done TASK --output '{{"summary": "..."}}'` hands your results to the tasks that wait for it. If you
   cannot finish: `loom fail TASK --reason TEXT`, `loom release TASK`, or `loom escalate TASK TEXT` to ask somebody.
4. Claim again. New work you come across: `loom create TITLE --depends-on TASK`. Where things stand: `loom status`.

Subagents name themselves, each with a name of its own: `--agent NAME`, or `agent_id` over MCP.
{END}"""

_SETTINGS = """\
# Loom's settings for this project, shared by all who work on it. `loom config show` prints every key and where its
# value comes from; ~/.loom/config.yaml is for your own, and LOOM_* variables win over both.
project_name: {name}
project_id: {id}

# servers:
#   backend: embedded            # or docker, or external with database.url and redis.url
# orchestration:
#   claim_ttl_seconds: 600       # how long a claim holds unless it is renewed
#   max_retries: 3
"""

_IGNORED = """\
# What belongs to this machine only.
logs/
worktrees/
*.local.*
.env
secrets*
"""


_LONGEST_TOKEN = 1_000  # characters


@click.command(cls=Command)
@click.option("--name", metavar="NAME", help="The project's name; default: the name of the directory.")
@click.option("--remote", metavar="URL", help="Work on the project of a server, with an access token for it.")
@click.option("--with-token", is_flag=True, help="With --remote: read that token from standard input, and keep it.")
@click.option("--yes", is_flag=True, help="Write and trust the setup and the checks that are proposed, without asking.")
def init(name: str | None, remote: str | None, with_token: bool, yes: bool) -> None:
    """Make this directory a Loom project. Calling it again brings its files up to date and changes nothing else.

    What the project's files say of how it is set up and tested is proposed as `work.setup` and `checks`; your yes
    writes it, and trusts it on this machine.

    With --remote nothing runs here: commands and clients go to that server, with the token of LOOM_TOKEN, or for
    commands of ~/.loom/credentials, where --with-token puts it. At a terminal it is asked for, without an echo. No file
    of the project gets it."""
    if remote is not None:
        _join(_root(name), remote, with_token=with_token)
        return
    if with_token:
        raise click.UsageError("--with-token goes with --remote.")
    made = initialise(_root(name), name)
    proposed = _proposed(made.root)
    runners = [one for one in _RUNNERS if shutil.which(one)]
    if wants_json():
        from loom.cli.output import emit

        _agree(made, proposed, agreed=yes)
        facts = {"proposed": proposed.values, "agreed": yes and bool(proposed.values), "runners": runners}
        emit(
            {
                "project_id": made.project_id,
                "project": made.name,
                "directory": str(made.root),
                "files": made.files,
                **facts,
            }
        )
        return
    for line in table([[words, path] for path, words in made.files.items()]):
        click.echo(line)
    if made.advice:
        note(made.advice)
    wiring.note_not_ours(made.root)
    if proposed.values:
        _ask(made, proposed, agreed=yes)
    click.echo(f"{one_line(made.name)} is a Loom project. Next: loom up")
    if runners:
        how = "--land" if load_config(made.root).landing.checks else "--worktree"  # what nothing proves does not land
        click.echo(f"{' and '.join(runners)} found. For a plan: loom decompose GOAL")
        click.echo(f"Once there are tasks: loom work --runner {runners[0]} {how}")


def _join(root: Path, given: str, *, with_token: bool) -> None:
    """Leads commands and clients in `root` to the project of a server, and says what was written."""
    from loom.remote import credentials

    url = given.rstrip("/").removesuffix("/mcp")
    try:
        KEYS["server.url"].accept(url)
    except ValueError:
        raise InvalidInputError(
            f"--remote must be {KEYS['server.url'].wanted}.", "Give the server's address."
        ) from None
    if with_token:
        credentials.keep(url, _given_token())
    try:
        plan = _agent_files(root)
        plan[root / wiring.FILE] = wiring.reached(root, url)
        plan[root / ".loom" / ".gitignore"] = _unless_there(root / ".loom" / ".gitignore", _IGNORED, root)
        before = read(root / ".loom" / "config.yaml", root)
        (root / ".loom").mkdir(exist_ok=True)
        set_trusted(root, "server.url", url)
        after = read(root / ".loom" / "config.yaml", root)
        how = "unchanged" if after == before else "updated" if before else "written"
        written = {".loom/config.yaml": how}
        written |= {str(path.relative_to(root)): write(path, text, root) for path, text in plan.items()}
    except OSError as error:
        raise FileError(
            f"{error.filename or root} cannot be written: {error.strerror}.", "Make it writable, then run it again."
        ) from None
    if wants_json():
        from loom.cli.output import emit

        emit({"server": url, "directory": str(root), "files": written})
        return
    for line in table([[words, path] for path, words in written.items()]):
        click.echo(line)
    if with_token:
        click.echo(f"The token is kept in {credentials.path()}, for commands; clients take it from LOOM_TOKEN.")
        click.echo(f"Work goes to {url}. Next: loom status")
    else:
        click.echo(f"Work goes to {url}. Next: put your token into LOOM_TOKEN, then loom status")


def _given_token() -> str:
    """An access token, never from an argument, which everybody on this machine could read."""
    if sys.stdin.isatty():
        return str(click.prompt("Access token", hide_input=True, err=True)).strip()
    return sys.stdin.readline(_LONGEST_TOKEN).strip()


def _proposed(root: Path) -> Proposal:
    """What the file of the project does not say yet."""
    import asyncio

    from loom.landing.proposing import propose

    there = read_layer(root / ".loom" / "config.yaml", [], within=root)
    return asyncio.run(propose(root)).without(there)


def _ask(made: Made, proposed: Proposal, *, agreed: bool) -> None:
    """Shows what is proposed, and writes it if a person who can be asked says yes, or said so already."""
    click.echo(f"Because of {', '.join(proposed.because)}, .loom/config.yaml may say:")
    rows = [[key, texts.one_line(json.dumps(value, ensure_ascii=False))] for key, value in proposed.values.items()]
    for line in table(rows, "  "):
        click.echo(line)
    if not agreed and can_ask():
        agreed = confirmed("Write that, and let it run on this machine?")
        if not agreed:
            click.echo("It was not written. `loom init` asks again.")
    elif not agreed:
        click.echo("Nothing of it was written; `loom init --yes` writes it, and lets it run on this machine.")
    _agree(made, proposed, agreed=agreed)


def _agree(made: Made, proposed: Proposal, *, agreed: bool) -> None:
    """Writes what was agreed to; who agrees trusts it."""
    if agreed and proposed.values:
        for key, value in proposed.values.items():
            set_trusted(made.root, key, value)
        if made.files[".loom/config.yaml"] == "unchanged":
            made.files[".loom/config.yaml"] = "updated"


@dataclass(frozen=True)
class Made:
    """What `initialise` did: each file and whether it was written, updated or unchanged."""

    root: Path
    project_id: str
    name: str
    files: dict[str, str]
    advice: str


def initialise(root: Path, name: str | None = None) -> Made:
    """Makes `root` a project, or refreshes what Loom wrote there.

    Raises:
        LoomError: a file that is there cannot be used; nothing was written.
    """
    from loom.services.docker import COMPOSE_TEXT

    try:
        plan = _agent_files(root)
        plan[root / wiring.FILE], advice = wiring.started(root)
        plan[root / ".loom" / ".gitignore"] = _unless_there(root / ".loom" / ".gitignore", _IGNORED, root)
        plan[root / COMPOSE_FILE] = _unless_there(root / COMPOSE_FILE, COMPOSE_TEXT, root)
        written = {".loom/config.yaml": _settle(root, name)}
        for part in ("skills", "workflows", "logs"):
            written[f".loom/{part}/"] = _directory(root / ".loom" / part)
        written |= {str(path.relative_to(root)): write(path, text, root) for path, text in plan.items()}
        if plan[root / COMPOSE_FILE] == COMPOSE_TEXT:
            trust(root, [COMPOSE_FILE])
    except OSError as error:
        raise FileError(
            f"{error.filename or root} cannot be written: {error.strerror}.", "Make it writable, then run it again."
        ) from None
    config = load_config(root)
    assert config.project_id is not None, "it was just written"
    places.enter(config)
    return Made(root, config.project_id, config.project_name, written, advice)


# --- where ------------------------------------------------------------------------------------------------------------


def _root(name: str | None) -> Path:
    """The directory to make a project of."""
    named = os.environ.get("LOOM_PROJECT_DIR", "")
    here = files.named(named) if named and not named.startswith("${") else Path.cwd()
    if not here.is_dir():
        raise InvalidInputError(f"LOOM_PROJECT_DIR names {named}, which is no directory.", "Make it, or unset it.")
    here = here.resolve()
    if here == user_config_path().parent.parent.resolve():
        raise InvalidInputError(
            "This is your home directory, where Loom keeps your own settings.", "Go into the project's directory first."
        )
    above = find_project(here)
    if above is None or above == here:
        return here
    if not here.is_relative_to(above):
        raise InvalidInputError(
            f"This git worktree belongs to the Loom project in {above}.", "Nothing is to be done here; go on with it."
        )
    if name is None:
        raise InvalidInputError(
            f"This directory belongs to the Loom project in {above}.",
            "Go on with that one, or give --name to make one of its own here.",
        )
    return here


# --- what -------------------------------------------------------------------------------------------------------------


def _settle(root: Path, name: str | None) -> str:
    """The configuration file with a name and an id in it."""
    path = root / ".loom" / "config.yaml"
    chosen = name or root.name or "project"
    try:
        KEYS["project_name"].accept(chosen)
    except ValueError:
        raise InvalidInputError(f"The project's name must be {KEYS['project_name'].wanted}.", "Give --name.") from None
    if not path.exists():
        settings = _SETTINGS.format(name=json.dumps(chosen, ensure_ascii=False), id=ids.project_id())
        return write(path, settings, root)
    before = read(path, root)
    config = load_config(root)
    if config.sources["project_id"] != str(path):
        set_value(path, "project_id", ids.project_id(), within=root)
    if name is not None and name != config.project_name:
        set_value(path, "project_name", name, within=root)
    return "unchanged" if read(path, root) == before else "updated"


def _agent_files(root: Path) -> dict[Path, str | None]:
    """AGENTS.md with Loom's block, and CLAUDE.md importing it; None where a file stays as it is."""
    agents, claude = root / "AGENTS.md", root / "CLAUDE.md"
    plan: dict[Path, str | None] = {agents: _with_block(agents, root)}
    if claude.exists() and agents.exists() and claude.samefile(agents):
        return plan
    text = read(claude, root)
    plan[claude] = None if re.search(r"@(\./)?AGENTS\.md\b", text) else f"{_ended(text)}@AGENTS.md\n"
    return plan


def _with_block(path: Path, root: Path) -> str:
    text = read(path, root)
    block = _BLOCK if "\r\n" not in text else _BLOCK.replace("\n", "\r\n")
    if text.count(BEGIN) != text.count(END) or text.count(BEGIN) > 1 or text.find(BEGIN) > text.find(END):
        raise ConfigError(
            f"{path} has marks of Loom's block ({BEGIN} and {END}) that do not form one pair.",
            "Correct or remove them, then run it again.",
        )
    if BEGIN not in text:
        return f"{_ended(text)}{block}\n"
    return text[: text.index(BEGIN)] + block + text[text.index(END) + len(END) :]


def _ended(text: str) -> str:
    """A text that something can be added to after an empty line."""
    return f"{text.rstrip()}\n\n" if text.strip() else ""


def _unless_there(path: Path, text: str, root: Path) -> str | None:
    return None if read(path, root) not in ("", text) else text


def _directory(path: Path) -> str:
    if path.is_dir():
        return "unchanged"
    path.mkdir(parents=True)
    return "written"
