"""The list of commands, and what becomes of errors; each group of commands is a module that is imported when one of
them is called."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem

from loom import texts
from loom.cli import output
from loom.exceptions import ConfigError, LoomError
from loom.wording import worded


class _Entry(NamedTuple):
    """Where a command is (`module:attribute` below `loom.cli`), and what it does in one line."""

    place: str
    help: str


SECTIONS: Mapping[str, Mapping[str, _Entry]] = {
    "Start": {
        "init": _Entry("init:init", "Make this directory a Loom project."),
        "up": _Entry("servers:up", "Start the servers and bring the project up to date."),
        "down": _Entry("servers:down", "Stop the servers; every byte is kept."),
        "migrate": _Entry("servers:migrate", "Bring the database's schema up to this version."),
        "status": _Entry("looking:status", "What needs you, who does what, what is next, when it may end."),
        "demo": _Entry("demo:demo", "See four agents change a program together, from nothing."),
        "board": _Entry("board:board", "Open the project in a browser: what agents do, seen and steered."),
        "doctor": _Entry("doctor:doctor", "Check servers, settings and the graph's invariants."),
        "help": _Entry("help:help_", "Read about a topic or a command."),
        "serve": _Entry("serve:serve", "Serve all sessions of this user from one process, or a team over HTTP."),
        "mcp": _Entry("servers:mcp", "Serve the tools for agents over standard input and output."),
    },
    "Work": {
        "ready": _Entry("looking:ready", "List what can be claimed now, best first."),
        "stuck": _Entry("looking:stuck", "What does not go on by itself, why, and what it holds up."),
        "claim": _Entry("reports:claim", "Claim a task, or the best ready one."),
        "check": _Entry("checks:check", "Run the checks that work needs."),
        "done": _Entry("reports:done", "Finish a task."),
        "fail": _Entry("reports:fail", "End a claim without a result."),
        "release": _Entry("reports:release", "Give a claim back, its attempt refunded."),
        "escalate": _Entry("reports:escalate", "End a claim with a question."),
        "heartbeat": _Entry("reports:heartbeat", "Renew the leases of claims."),
    },
    "Graph": {
        "create": _Entry("tasks:create", "Create a task or an epic."),
        "update": _Entry("tasks:update", "Change an unfinished task."),
        "edit": _Entry("edit:edit", "Change a task in your editor."),
        "cancel": _Entry("tasks:cancel", "Cancel an unfinished task."),
        "defer": _Entry("tasks:defer", "Put off tasks until somebody brings them back."),
        "reopen": _Entry("tasks:reopen", "Have finished tasks done again."),
        "resolve": _Entry("tasks:resolve", "Decide about escalated or dead work."),
        "dead-letter": _Entry("tasks:dead_letter", "List, retry or cancel tasks that ran out of attempts."),
        "list": _Entry("listing:list_", "List tasks, all or those that a filter asks for."),
        "search": _Entry("listing:search", "Look for words in tasks."),
        "show": _Entry("looking:show", "Tasks with all around them."),
        "history": _Entry("history:history", "What happened to a task, or what an agent did, newest last."),
        "logs": _Entry("history:logs", "What the newest command for a task has printed."),
        "stats": _Entry("stats:stats", "How it went lately, and when it may end."),
        "graph": _Entry("looking:graph", "The graph as waves of work, Mermaid or JSON."),
        "import": _Entry("transfer:import_", "Bring in tasks of Task Master, Beads, Loom or a plan."),
        "export": _Entry("transfer:export", "Write the whole project as JSON."),
    },
    "Plan": {
        "decompose": _Entry("skills:decompose", "Turn a goal into tasks: plan, check, show, write."),
        "skill": _Entry("skills:skill", "List, show and run skills: prompts with checked answers."),
        "workflow": _Entry("workflows:workflow", "Steps that lead from a goal to its end, and survive a crash."),
    },
    "Talk": {
        "note": _Entry("talk:note", "Keep a note on a task."),
        "message": _Entry("talk:message", "Send a message to an agent or to all."),
        "inbox": _Entry("talk:inbox", "Read and acknowledge messages."),
        "wait": _Entry("talk:wait", "Block until something changes."),
        "watch": _Entry("talk:watch", "Follow the project's events."),
    },
    "Run": {
        "orchestrate": _Entry("orchestrate:orchestrate", "Supervise the project while agents work."),
        "land": _Entry("land:land", "Land what waits, or bring the work on one task there."),
        "landing": _Entry("landing:landing", "What waits to land, and your yes or no to it."),
        "worktree": _Entry("worktrees:worktree", "List and prune the places that tasks are worked on in."),
        "digest": _Entry("digest:digest", "What was done on a day, at what cost, and what waits for you."),
        "metrics": _Entry("metrics:metrics", "What is counted and measured, as Prometheus reads it."),
        "notify": _Entry("notify:notify", "Who is told what waits for a person, and whether that works."),
        "work": _Entry("work:work", "Run a command for each task until nothing is left to do."),
    },
    "Settings": {
        "config": _Entry("settings:config", "Show, set and trust the configuration."),
        "project": _Entry("settings:project", "List and archive projects."),
        "backup": _Entry("keeping:backup", "Write the whole project into a file."),
        "restore": _Entry("keeping:restore", "Put a project back from such a file."),
        "token": _Entry("tokens:token", "Say who may come in over HTTP, and as whom."),
        "completion": _Entry("completion:completion", "Complete commands and names in bash, zsh and fish."),
    },
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class _Cli(click.Group):
    """A group that imports a command when it is called, and turns every error into two sentences and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].place.partition(":")
        command = getattr(import_module(f"loom.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = texts.near(args[0], _COMMANDS)
            hint = f" Did you mean `loom {near}`?" if near else ""
            ctx.fail(f"There is no command {texts.shorten(args[0], 60)!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, entry.help) for name, entry in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = (CompletionItem(name, help=e.help) for name, e in _COMMANDS.items() if name.startswith(incomplete))
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # whatever the locale, a title can be printed
        extra.setdefault("color", output.coloured())
        try:
            with _told(words):
                status = super().main(words, prog_name or "loom", complete_var, standalone_mode=False, **extra)
                sys.stdout.flush()
        except BrokenPipeError:
            _leave_quietly()
        except OSError as error:  # `_told` has told of all others
            _leave_unprinted(error)
        sys.exit(status if isinstance(status, int) else 0)


@click.group(
    cls=_Cli,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Wherever a command takes a TASK, that is its id, the beginning of it, with or without loom-, or what the "
    "tracker called it that it came from. `loom help` lists what else there is to read; `loom help configuration` has "
    "the LOOM_* variables.",
)
@click.version_option(package_name="loom-agents", prog_name="loom")
def cli() -> None:
    """One durable, dependency-aware task graph for many AI coding agents."""


class _told:  # noqa: N801 - read as a statement: `with _told(...):`
    """Tells of an error in two sentences and leaves with its exit status."""

    def __init__(self, words: Sequence[str]) -> None:
        self._as_json = "--json" in words
        self._words = words

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if error is None or isinstance(error, SystemExit | BrokenPipeError):
            return
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, *_FULL):
            return  # what was to be printed, which `main` tells
        error = _known(error)
        if isinstance(error, click.Abort | KeyboardInterrupt):
            sys.exit(130)
        if isinstance(error, LoomError):
            from loom.cli.wording import people

            face = people(*_called(self._words))
            facts = error.facts
            self._tell(error.code, worded(error.cause, face), worded(error.next_step, face), error.exit_code, facts)
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            click.echo(error.format_message(), err=True, color=output.coloured())
            sys.exit(error.exit_code)
        if isinstance(error, click.ClickException):
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "loom"
            told, next_step = _sentence(error.format_message()), f"See `{path} --help`."
            name = next((word for word in self._words if word in _COMMANDS), "")
            if self._as_json and name and getattr(error, "option_name", "") == "--json" and path == "loom":
                next_step = f"Say it after the command: `loom {name} --json`."
            self._tell("usage", told, next_step, error.exit_code)
        if isinstance(error, Exception):
            from loom.cli.logs import record

            where = record(error)
            self._tell("internal", f"Something went wrong inside Loom ({type(error).__name__}).", f"See {where}.", 1)

    def _tell(
        self, code: str, cause: str, next_step: str, status: int, facts: Mapping[str, Any] = MappingProxyType({})
    ) -> NoReturn:
        if self._as_json:
            output.emit({"error": {"code": code, "cause": cause, "next_step": next_step, **facts}})
        else:
            for line in [*_lines(cause, next_step), *_printed(facts.get("checks", ()))]:
                click.echo(line, err=True, color=output.coloured())
        sys.exit(status)


def _known(error: BaseException) -> BaseException:
    """An error as one that can be told of, where it is of a kind that many a command meets."""
    if isinstance(error, click.NoSuchOption):
        near = texts.near(error.option_name, error.possibilities or ())
        return click.NoSuchOption(error.option_name, possibilities=[near] if near else [], ctx=error.ctx)
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Argument) and error.param.name:
        error.param_hint = f"'{(error.param.metavar or error.param.name.upper()).strip('[]')}'"  # not all its choices
    if isinstance(error, FileNotFoundError) and _is_nowhere():
        return ConfigError("The current directory is gone.", "Change to one that is there.")
    return error


def _is_nowhere() -> bool:
    """Whether the current directory was removed."""
    try:
        os.getcwd()  # noqa: PTH109 - no path is wanted
    except FileNotFoundError:
        return True
    return False


def _called(words: Sequence[str]) -> tuple[str, frozenset[str]]:
    """The command that some words call, and what its usage calls the arguments that it takes without an option."""
    found: click.Command = cli
    path = []
    for word in words:
        if not isinstance(found, click.Group):
            break
        if (below := found.get_command(click.Context(found), word)) is not None:
            found = below
            path.append(word)
    places = (one for one in found.params if isinstance(one, click.Argument))
    return " ".join(path), frozenset((one.metavar or str(one.name).upper()).strip("[].") for one in places)


def _lines(cause: str, next_step: str) -> Iterator[str]:
    yield f"{click.style('error:', fg='red')} {texts.one_line(cause)}"
    if next_step:
        yield f"{click.style('next:', bold=True)} {texts.one_line(next_step)}"


def _printed(checks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The end of what red checks printed."""
    for one in checks:
        if one.get("tail", "").strip():
            yield from output.block(one["name"], one["tail"])


def _sentence(text: str) -> str:
    return texts.shorten(texts.one_line(text), 300)


def _leave_quietly() -> NoReturn:
    """Whoever read the output has gone; nothing is to be flushed into the void at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _leave_unprinted(error: OSError) -> NoReturn:
    """Says on standard error that the answer could not be written."""
    if error.errno == errno.EPIPE:
        _leave_quietly()
    cause = f"The answer cannot be written: {error.strerror}. What was asked for may have been done."
    with suppress(OSError):
        for line in _lines(cause, "Make room, then look with `loom status`."):
            click.echo(line, err=True, color=output.coloured())
    _leave_quietly()
