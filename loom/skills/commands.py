"""Programs of this machine that answer prompts: any command of the user's, and the coding agents that Loom knows.

A command reads the prompt on its standard input. Whatever it has started ends with it.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loom import process, texts
from loom.exceptions import ConfigError, ProviderError
from loom.skills.answers import ANSWER_BYTES
from loom.skills.completion import Completion, too_long

_SAID = 500  # characters of why there is no answer


class CommandProvider:
    """Any command that reads a prompt from standard input and prints an answer."""

    name = "command"

    def __init__(self, line: str, directory: Path | None = None) -> None:
        """
        Args:
            line: the command and its arguments, quoted as for a shell; none is used.
            directory: where it runs.
        """
        try:
            self._words = shlex.split(line)
        except ValueError:
            self._words = []
        if not self._words:
            raise ConfigError("skills.command is not a command line.", "Close its quotes, or name a command.")
        self._directory = directory

    def check(self, model: str | None = None) -> None:
        """A command line is all that it needs; see `Provider`."""

    async def complete(
        self,
        prompt: str,
        *,
        schema: Mapping[str, Any],
        timeout: float,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Completion:
        """Runs the command once. When the time is over, all that it has started ends."""
        name = f"The command {self._words[0]}"
        ended = await _run(name, self._words, prompt, self._directory, timeout, "Correct skills.command.")
        if ended.status:
            raise _failed(name, f"ended with status {ended.status}: {_last(ended)}", "Run it by hand to see why.")
        return Completion(ended.out.decode(errors="replace"), model)


class AgentProvider:
    """A coding agent that is installed here, asked with the user's own login. It may look at the project's files on the
    way to its answer; it changes none, and starts no servers."""

    def __init__(self, name: str, directory: Path | None = None) -> None:
        """
        Args:
            name: one of AGENTS.
            directory: where it runs.
        """
        self.name, self._row, self._directory = name, AGENTS[name], directory

    def check(self, model: str | None = None) -> None:
        """Raises ConfigError where it is not on PATH."""
        self._program()

    async def complete(
        self,
        prompt: str,
        *,
        schema: Mapping[str, Any],
        timeout: float,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Completion:
        """Asks it once. When the time is over, all that it has started ends."""
        words = [self._program(), *self._row.words, *((self._row.model, model) if model else ()), *self._row.last]
        again = f"Run `{self.name}` in a terminal to see why."
        ended = await _run(self.name, words, prompt, self._directory, timeout, again)
        found = self._row.read(ended.out)
        if found.answer is None or ended.status:
            said = found.said.strip() or f"it ended with status {ended.status}: {_last(ended)}"
            raise _failed(self.name, f"gave no answer: {said[-_SAID:]}", again)
        return Completion(found.answer, found.model or model, found.input_tokens, found.output_tokens)

    def _program(self) -> str:
        if (found := where(self.name)) is None:
            raise ConfigError(
                f"The provider is {self.name}, but `{self.name}` is not on PATH.",
                "Install it, or set skills.provider to another one.",
            )
        return found


# --- the agents -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """What an agent has printed. `answer`: None where it gave none; `said`: why, then."""

    answer: str | None
    said: str = ""
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    """How an agent is asked: the words behind its name, the option that names a model, the words that come last, and
    how what it prints is read."""

    words: tuple[str, ...]
    model: str
    last: tuple[str, ...]
    read: Callable[[bytes], _Found]


def _read_claude(out: bytes) -> _Found:
    told = next(_objects(out), {})
    used = told.get("usage")
    tokens = used if isinstance(used, dict) else {}
    text, models = str(told.get("result") or ""), told.get("modelUsage")
    in_order = told.get("subtype") == "success" and not told.get("is_error") and told.get("stop_reason") != "refusal"
    parts = [_count(tokens, f"{kind}input_tokens") for kind in ("", "cache_creation_", "cache_read_")]
    return _Found(
        text if in_order and text else None,
        text,
        next(iter(models)) if isinstance(models, dict) and len(models) == 1 else None,
        None if parts[0] is None else sum(part or 0 for part in parts),
        _count(tokens, "output_tokens"),
    )


def _read_codex(out: bytes) -> _Found:
    answer, said, tokens = None, "", dict[str, Any]()
    for event in _objects(out):
        match event:
            case {"type": "item.completed", "item": {"type": "agent_message", "text": str(text)}}:
                answer = text
            case {"type": "turn.failed", "error": {"message": str(why)}}:
                answer, said = None, why
            case {"type": "error", "message": str(why)}:
                said = why
            case {"type": "turn.completed", "usage": dict(used)}:
                tokens = used
    return _Found(answer, said, None, _count(tokens, "input_tokens"), _count(tokens, "output_tokens"))


AGENTS: Mapping[str, _Row] = {
    "claude": _Row(
        (
            "-p", "--output-format", "json", "--strict-mcp-config", "--setting-sources", "user",
            "--permission-mode", "default", "--permission-prompts", "none",
        ),
        "--model",
        (),
        _read_claude,
    ),
    "codex": _Row(
        (
            "exec", "--json", "--skip-git-repo-check", "--ignore-rules", "--color", "never", "--sandbox", "read-only",
            "-c", 'approval_policy="never"', "--disable", "unbounded_connection_retries",
        ),
        "--model",
        ("-",),
        _read_codex,
    ),
}  # fmt: skip
"""The coding agents that are asked by their name, the preferred one first."""


def where(name: str) -> str | None:
    """The whole path of a program on the PATH of whoever asks for it, None if there is none."""
    found = shutil.which(name, path=process.environment().get("PATH", ""))
    return str(Path(found).absolute()) if found else None


def _objects(out: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects in what was printed, one a line."""
    for line in out.splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def _count(tokens: Mapping[str, Any], name: str) -> int | None:
    value = tokens.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


# --- running them -----------------------------------------------------------------------------------------------------


async def _run(
    name: str, words: Sequence[str], prompt: str, directory: Path | None, timeout: float, advice: str
) -> process.Ended:
    try:
        ended = await process.run(
            words, text=prompt, env=process.environment(), cwd=directory, timeout=timeout, out_bytes=ANSWER_BYTES
        )
    except TimeoutError:
        raise ProviderError(
            f"{name} gave no answer within {timeout:g} seconds.", "Try again, or give it less to do."
        ) from None
    except OSError as error:
        raise ProviderError(f"{name} cannot be started: {error.strerror}.", advice) from None
    if ended.cut:
        raise too_long(name)
    return ended


def _last(ended: process.Ended) -> str:
    """The last that a command said of its own troubles."""
    return ended.err.decode(errors="replace").strip()[-_SAID:] or "it said nothing"


def _failed(name: str, how: str, advice: str) -> ProviderError:
    return ProviderError(f"{name} {texts.mask(texts.clean(how)).rstrip()}", advice)
