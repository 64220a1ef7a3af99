"""What every command shares: its options, and one way to ask the project something and to answer."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from loom import texts
from loom.cli import output
from loom.cli.wording import people
from loom.config import LoomConfig, load_config, places
from loom.exceptions import InvalidInputError, NotFromAfarError
from loom.wording import worded_reply

if TYPE_CHECKING:
    from loom.graph.front import Loom

F = TypeVar("F", bound=Callable[..., Any])
Reply = Mapping[str, Any]

_JSON = "loom.json"
_PLEASE = "Please type y or n."
_TEXT_BYTES = 2**30  # of a file, which may be a whole project


class Command(click.Command):
    """A command with `--json`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(
            click.Option(
                ["--json"], is_flag=True, expose_value=False, callback=_choose_json, help="Answer with one JSON object."
            )
        )


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def wants_json() -> bool:
    """Whether the command that runs was asked for JSON."""
    return bool(click.get_current_context().meta.get(_JSON))


def agent_option(function: F) -> F:
    return click.option("--agent", metavar="NAME", help="Act as this agent instead of as yourself.")(function)


def token_option(function: F) -> F:
    return click.option("--token", type=int, metavar="N", help="Act on exactly the claim with this token.")(function)


def limit_option(default: int | None, most: int = 500, words: str = "At most this many.") -> Callable[[F], F]:
    return click.option(
        "--limit", type=click.IntRange(1, most), default=default, show_default=True, metavar="N", help=words
    )


def from_option(what: str) -> Callable[[F], F]:
    return click.option("--from", "file", metavar="FILE", help=f"Read the {what} from this file, - for standard input.")


def json_option(name: str, what: str) -> Callable[[F], F]:
    """An option for a JSON object, given as text, as `@file`, or as `-` for standard input."""
    return click.option(
        f"--{name}", metavar="JSON", callback=_read_object, help=f"{what}: JSON, @file or - for standard input."
    )


def read_text(name: str) -> str:
    """The text of a file, or of standard input for `-`. Raises InvalidInputError."""
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            data = file.read(_TEXT_BYTES + 1)
        if len(data) > _TEXT_BYTES:
            raise InvalidInputError(f"{name} is larger than {_TEXT_BYTES // 2**20} MiB.", "Give less at a time.")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInputError(f"{name} cannot be read: {error.strerror}.", "Name a file that is there.") from None
    except ValueError:  # not UTF-8, or a NUL in the name
        raise InvalidInputError(f"{name} is not UTF-8 text.", "Convert it to UTF-8.") from None


def given_text(text: str | None, file: str | None, name: str) -> str | None:
    """A text that came as an argument or, with `--from`, in a file; None when neither was given."""
    if text is not None and file is not None:
        raise click.UsageError(f"Give {name} or --from, not both.")
    return text if file is None else read_text(file).rstrip("\r\n")


def needed_text(text: str | None, file: str | None, name: str) -> str:
    """As `given_text`, where one must be given."""
    if (found := given_text(text, file, name)) is None:
        raise click.UsageError(f"Missing {name}; give it or --from FILE.")
    return found


def task_entries(text: str) -> list[dict[str, Any]]:
    """The tasks of a text: JSON, as a plan has them, whole or an object a line; else a title on each line. Raises
    InvalidInputError."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise click.UsageError("Standard input names no task.")
    if lines[0][0] not in "{[":
        return [{"title": line} for line in lines]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = [_entry(number, line) for number, line in enumerate(lines, 1)]
    if isinstance(found, dict):
        found = found.get("tasks", [found])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidInputError("What standard input has is no list of tasks.", 'Write objects like {"title": "…"}.')
    return found


def _entry(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidInputError(
            f"Line {number} of standard input is not valid JSON.",
            "Write it whole, an object a line, or titles alone.",
        ) from None


def input_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Inputs that came as NAME=VALUE, where VALUE may be @file."""
    found = {}
    for pair in pairs:
        name, given, value = pair.partition("=")
        if not given or not name:
            raise click.UsageError("--input must be NAME=VALUE.")
        found[name] = read_text(value[1:]) if value.startswith("@") else value
    return found


# --- asking and answering -------------------------------------------------------------------------------------------


def settings() -> LoomConfig:
    """The configuration of where we are; its warnings are shown to a person."""
    config = load_config()
    for warning in config.warnings:
        note(warning)
    _log_to_stderr(config.log_level)
    return config


def settings_here() -> LoomConfig:
    """As `settings`, for what has to do with a database that is reached from here. Raises NotFromAfarError."""
    config = settings()
    if config.server.url is not None:
        raise NotFromAfarError.at(texts.mask(config.server.url))
    return config


def open_project(agent: str | None = None, config: LoomConfig | None = None) -> Loom:
    """The project of where we are, on behalf of `agent` or of who calls; from afar where `server.url` says so. Raises
    ProjectNotFoundError, ConfigError, TokenError."""
    config = config or settings()
    if config.server.url is not None:
        from loom.remote.front import Remote

        return Remote(config, agent=agent)
    from loom.graph.front import Loom

    if can_ask() and (owner := places.owner_elsewhere(config)):
        click.echo(f"The id of this project is that of the project in {owner}.", err=True)
        if confirmed("Are both one project, with the same tasks?"):
            places.allow(config)
    return Loom(config, agent=agent or _own_name(config))


def answer(
    work: Callable[[Loom], Awaitable[Reply]],
    show: Callable[[Reply], Iterable[str]],
    *,
    agent: str | None = None,
    changes: bool = False,
    here: bool = False,
) -> None:
    """Runs one question or change and answers: with the reply as JSON, or with the lines that `show` makes of it.

    Args:
        changes: something was written, so that the mirror is worth a look afterwards; what has lapsed is looked for
            either way.
        here: it takes the database, so that from afar it is refused.
    """
    as_json = wants_json()

    async def whole() -> None:
        config = settings_here() if here else settings()
        # It asks one thing after the other: to open a second connection takes longer than many questions.
        database = replace(config.database, pool_min=min(config.database.pool_min, 1))
        async with open_project(agent, replace(config, database=database)) as loom:
            if not changes:
                await loom.sweep()
            reply = worded_reply(await work(loom), people())
            if as_json:
                output.emit(reply)
            else:
                for line in show(reply):
                    click.echo(line)
            if changes:
                sys.stdout.flush()
                from loom.orchestration.housekeeping import once

                await once(loom)
            if sys.stderr.isatty():  # somebody is there to whose shell names are of use
                sys.stdout.flush()
                from loom.cli import names

                await names.keep(loom, json.dumps(reply, default=str), changed=changes)

    asyncio.run(whole())


def can_ask() -> bool:
    """Whether there is a person at a terminal who can be asked."""
    return not wants_json() and sys.stdin.isatty() and sys.stdout.isatty()


async def agreed(question: str) -> bool:
    """Asks that person for a yes; the end of input is a no. The event loop goes on meanwhile, so that Ctrl-C ends the
    command, and what runs beside is not held up."""
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    while True:
        click.echo(f"{question} [y/N]: ", nl=False)
        loop.add_reader(sys.stdin.fileno(), typed.set)  # a terminal is readable once a line is complete
        try:
            await typed.wait()
        finally:
            loop.remove_reader(sys.stdin.fileno())
        typed.clear()
        if (meant := _meant(sys.stdin.readline())) is not None:
            return meant
        click.echo(_PLEASE)


def confirmed(question: str, *, default: bool = False) -> bool:
    """As `agreed`, for whoever waits for nothing, also where an event loop stands still meanwhile: Ctrl-C ends the
    command at once, while the loop's own handler would only note it until a line is typed. `default`: what an empty
    line means."""
    noted = signal.getsignal(signal.SIGINT)
    if noted is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            click.echo(f"{question} {'[Y/n]' if default else '[y/N]'}: ", nl=False, err=True)
            meant = _meant(sys.stdin.readline(), default)  # `input` misses a signal that comes too soon
            if meant is not None:
                return meant
            click.echo(_PLEASE, err=True)
    finally:
        signal.signal(signal.SIGINT, noted)


def _meant(line: str, default: bool = False) -> bool | None:
    """Whether a line that was typed is a yes; None where it is neither a yes nor a no."""
    match line.strip().lower():
        case "y" | "yes":
            return True
        case "n" | "no":
            return False
        case "":
            return default and line != ""  # the end of input is none
        case _:
            return None


def on_signals(numbers: Iterable[signal.Signals], stop: Callable[[int], object]) -> None:
    """Has the event loop that runs call `stop` with the number of each of these signals that comes. One that whoever
    started this process has it ignore stays ignored, as under nohup."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(RuntimeError):  # only the main thread is told of signals
                asyncio.get_running_loop().add_signal_handler(number, stop, number)


def note(text: str) -> None:
    """A sentence to a person beside the answer."""
    click.echo(output.dim(f"note: {texts.one_line(text)}"), err=True)


def progress(text: str) -> None:
    """A sentence before something that takes time."""
    if not wants_json():
        click.echo(output.dim(texts.one_line(text)), err=True)


def _own_name(config: LoomConfig) -> str | None:
    """Who calls, the same for one person's every command; None where the front finds a name itself."""
    if config.agent_id or os.environ.get("CLAUDE_CODE_SESSION_ID"):
        return None
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = f"user{os.getuid()}"
    return (
        re.sub(r"[^A-Za-z0-9._:/-]", "-", user)[:31] + "@" + re.sub(r"[^A-Za-z0-9._:/-]", "-", os.uname().nodename)[:32]
    )


def _choose_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[_JSON] = value


def _log_to_stderr(level: str) -> None:
    import logging

    class OneLine(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return texts.logged(super().format(record))

    def is_told(record: logging.LogRecord) -> bool:
        """All but that a second Ctrl-C has met what the first one was ending."""
        return not (record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt))

    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("note: %(message)s"))
    logger = logging.getLogger("loom")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logging.getLogger("asyncio").filters[:] = [is_told]


def _read_object(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, Any] | None:
    if value is None:
        return None
    text = read_text(value.removeprefix("@")) if value == "-" or value.startswith("@") else value
    advice = f'Pass --{param.name} as an object, such as \'{{"note": "…"}}\'.'
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidInputError(f"--{param.name} is not valid JSON{where}.", advice) from None
    if not isinstance(found, dict):
        from loom.graph.model.limits import kind

        raise InvalidInputError(f"--{param.name} must be a JSON object, not {kind(found)}.", advice)
    return found
