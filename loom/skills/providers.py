"""Who answers a skill's prompt: a command, or a model behind an HTTP API (`apis.py`).

`choose` finds the one that a configuration names.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loom import process, texts
from loom.config import LoomConfig
from loom.exceptions import ConfigError, ProviderError
from loom.skills.answers import ANSWER_BYTES
from loom.skills.completion import Completion, Provider, too_long
from loom.wording import Shell, Words


def choose(config: LoomConfig, name: str | None = None) -> Provider | None:
    """The provider of that name, by default the configured one; None for `agent`, where the caller is the model.

    Raises:
        ConfigError: no such provider, or something that it needs is not set.
    """
    skills = config.skills
    wanted = name or skills.provider or ("command" if skills.command else "agent")
    match wanted:
        case "agent":
            return None
        case "command":
            if not skills.command:
                raise ConfigError(
                    "The provider is command, but skills.command is not set.",
                    Words("Run {}, or name another command.", Shell("loom config set skills.command 'claude -p'")),
                )
            return CommandProvider(skills.command, config.project_dir)
        case "anthropic" | "openai":
            from loom.skills import apis

            chosen = apis.AnthropicProvider if wanted == "anthropic" else apis.OpenAIProvider
            return chosen(config.skills_api_key, skills.base_url, skills.model)
    raise ConfigError(f"skills.provider is {wanted}, which does not exist.", "Use agent, command, anthropic or openai.")


class CommandProvider:
    """Any command that reads a prompt from standard input and prints an answer, such as `claude -p`."""

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
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        timeout: float = 600.0,
    ) -> Completion:
        """Runs the command once. When the time is over, all that it has started ends."""
        name = f"The command {self._words[0]}"
        try:
            ended = await process.run(
                self._words,
                text=prompt,
                env=process.environment(),
                cwd=self._directory,
                timeout=timeout,
                out_bytes=ANSWER_BYTES,
            )
        except TimeoutError:
            raise ProviderError(
                f"{name} gave no answer within {timeout:g} seconds.", "Try again, or give it less to do."
            ) from None
        except OSError as error:
            raise ProviderError(f"{name} cannot be started: {error.strerror}.", "Correct skills.command.") from None
        if ended.cut:
            raise too_long(name)
        if ended.status:
            said = texts.clean(ended.err.decode(errors="replace")).strip()[-500:] or "it said nothing"
            raise ProviderError(
                f"{name} ended with status {ended.status}: {texts.mask(said)}", "Run it by hand to see why."
            )
        return Completion(ended.out.decode(errors="replace"), model)
