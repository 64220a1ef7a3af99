"""Who answers a skill's prompt: a command, or a model behind an HTTP API.

A provider is an object with `check` and `complete`. The clients of the two APIs are an optional extra
(`loom-agents[providers]`) and imported when they are used. They honour `retry-after` and try again a few times; a
deadline bounds it all. Keys come from the environment and appear in no error.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from loom import process, texts
from loom.config import API_KEY_VARIABLE, LoomConfig
from loom.exceptions import ConfigError, ProviderError
from loom.skills.answers import ANSWER_BYTES
from loom.wording import Shell, Words

MAX_TOKENS = 16_000  # of an answer, where neither skill nor caller says
RETRIES = 4


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer; tokens are None where the provider does not count them."""

    text: str
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Provider(Protocol):
    """Something that answers prompts."""

    name: str

    def check(self, model: str | None = None) -> None:
        """Says before it is asked whether something is not set or not installed. Asks nobody, imports nothing.

        Raises:
            ConfigError: what `complete` would raise.
        """
        ...

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
        """Answers a prompt within `timeout` seconds.

        Args:
            schema: of the JSON object that is asked for; the prompt names it too.

        Raises:
            ProviderError: no answer, or a part of one; ConfigError: something is not set.
        """
        ...


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
            kind = AnthropicProvider if wanted == "anthropic" else OpenAIProvider
            return kind(config.skills_api_key, skills.base_url, skills.model)
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
                env={name: value for name, value in os.environ.items() if name != API_KEY_VARIABLE},
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
            raise _too_long(name)
        if ended.status:
            said = texts.clean(ended.err.decode(errors="replace")).strip()[-500:] or "it said nothing"
            raise ProviderError(
                f"{name} ended with status {ended.status}: {texts.mask(said)}", "Run it by hand to see why."
            )
        return Completion(ended.out.decode(errors="replace"), model)


class _Api:
    """What the two HTTP APIs share."""

    name: str
    package: str
    variable: str

    def __init__(self, key: str | None, base_url: str | None, model: str | None) -> None:
        """
        Args:
            key: by default that of the provider's own variable.
        """
        self._key = key or os.environ.get(self.variable)
        self._base_url = base_url
        self._model = model

    def check(self, model: str | None = None) -> None:
        """Whether there are a model, a key and the client's package; see `Provider`."""
        self._chosen(model)
        if not self._key and not self._base_url:
            raise ConfigError(f"The provider {self.name} needs a key.", f"Set {API_KEY_VARIABLE} or {self.variable}.")
        if find_spec(self.package) is None:
            raise self._not_installed()

    async def _needs(self, model: str | None) -> tuple[Any, str, str]:
        """The client's package, the key and the model. Raises as `check`."""
        self.check(model)
        try:
            package = await asyncio.to_thread(import_module, self.package)
        except ImportError:  # a part of it is missing
            raise self._not_installed() from None
        return package, self._key or "none", self._chosen(model)

    def _chosen(self, model: str | None) -> str:
        if chosen := model or self._model:
            return chosen
        raise ConfigError(
            f"The provider {self.name} needs a model.",
            Words("Run {}, or set it in the skill.", Shell("loom config set skills.model NAME")),
        )

    def _not_installed(self) -> ConfigError:
        return ConfigError(
            f"The provider {self.name} needs the package {self.package}.",
            "Install it with `pip install 'loom-agents[providers]'`.",
        )

    @asynccontextmanager
    async def _telling(self, package: Any, timeout: float) -> AsyncIterator[None]:
        """Bounds the time, and turns the client's errors into one that says what to do."""
        try:
            async with asyncio.timeout(timeout):
                yield
        except (TimeoutError, package.APITimeoutError):
            raise ProviderError(
                f"{self.name} gave no answer within {timeout:g} seconds.", "Try again, or give it less to do."
            ) from None
        except package.APIStatusError as error:
            raise self._status(error) from None
        except package.APIConnectionError:
            where = texts.mask(self._base_url) if self._base_url else "its API"
            raise ProviderError(
                f"{self.name} cannot be reached at {where}, or broke off.", "Check skills.base_url and the network."
            ) from None
        except (package.APIError, ValueError, TypeError, AttributeError) as error:
            raise ProviderError(
                f"{self.name} sent something that is not its API ({type(error).__name__}).", "Check skills.base_url."
            ) from None

    def _status(self, error: Any) -> ProviderError:
        said = texts.one_line(str(getattr(error, "message", "")))
        if self._key:
            said = said.replace(self._key, "***")
        match error.status_code:
            case 401 | 403:
                step = f"Check the key in {API_KEY_VARIABLE} or {self.variable}."
            case 404:
                step = "Check skills.model and skills.base_url."
            case 429:
                step = f"It was tried {RETRIES + 1} times; wait, and try again."
            case 500 | 502 | 503 | 504 | 529:
                step = "Try again later."
            case _:
                step = "Check skills.model, and what the skill sets."
        return ProviderError(f"{self.name} answered {error.status_code}: {texts.shorten(texts.mask(said), 300)}", step)


class AnthropicProvider(_Api):
    """Anthropic's Messages API; the answer comes as the input of a tool that has the schema."""

    name = "anthropic"
    package = "anthropic"
    variable = "ANTHROPIC_API_KEY"

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
        """Asks once, as a stream; see `Provider`."""
        package, key, chosen = await self._needs(model)
        answer = _Answer(self.name, chosen)
        request: dict[str, Any] = {
            "model": chosen,
            "max_tokens": max_tokens or MAX_TOKENS,
            "messages": [{"role": "user", "content": prompt}],
            "tools": [{"name": "answer", "description": "Gives the answer.", "input_schema": dict(schema)}],
            "tool_choice": {"type": "tool", "name": "answer"},
        }
        if temperature is not None:
            request["extra_body"] = {"temperature": min(temperature, 1.0)}  # newer models do without; the client too
        async with (
            self._telling(package, timeout),
            package.AsyncAnthropic(
                api_key=key, base_url=self._base_url, max_retries=RETRIES, timeout=timeout
            ) as client,
        ):
            async for event in await client.messages.create(**request, stream=True):
                match event.type:
                    case "message_start":
                        answer.model, answer.input_tokens = event.message.model, event.message.usage.input_tokens
                    case "content_block_delta" if event.delta.type == "input_json_delta":
                        answer.add(event.delta.partial_json)
                    case "content_block_delta" if event.delta.type == "text_delta":
                        answer.add(event.delta.text)
                    case "message_delta":
                        answer.ended = event.delta.stop_reason or answer.ended
                        answer.output_tokens = event.usage.output_tokens
        return answer.completion({"tool_use", "end_turn", "stop_sequence"})


class OpenAIProvider(_Api):
    """The Chat Completions API, of OpenAI or of whoever speaks it at `skills.base_url`."""

    name = "openai"
    package = "openai"
    variable = "OPENAI_API_KEY"

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
        """Asks once, as a stream; see `Provider`."""
        package, key, chosen = await self._needs(model)
        answer = _Answer(self.name, chosen)
        shape = {"name": "answer", "schema": dict(schema), "strict": False}
        request: dict[str, Any] = {
            "model": chosen,
            "messages": [{"role": "user", "content": prompt}],
            "response_format": {"type": "json_schema", "json_schema": shape},
            "stream_options": {"include_usage": True},
            # The newer name is OpenAI's own; who else speaks the API knows the older one.
            "max_tokens" if self._base_url else "max_completion_tokens": max_tokens or MAX_TOKENS,
        }
        if temperature is not None:
            request["temperature"] = temperature
        async with (
            self._telling(package, timeout),
            package.AsyncOpenAI(api_key=key, base_url=self._base_url, max_retries=RETRIES, timeout=timeout) as client,
        ):
            try:
                stream = await client.chat.completions.create(**request, stream=True)
            except package.BadRequestError as error:
                if "response_format" not in str(error.message):
                    raise
                del request["response_format"]  # not every server has it, and the prompt asks for the same
                stream = await client.chat.completions.create(**request, stream=True)
            async for part in stream:
                answer.model = part.model or answer.model
                if part.usage is not None:
                    answer.input_tokens, answer.output_tokens = part.usage.prompt_tokens, part.usage.completion_tokens
                for choice in part.choices[:1]:
                    answer.add(choice.delta.content or "")
                    answer.ended = choice.finish_reason or answer.ended
        return answer.completion({"stop"})


class _Answer:
    """An answer as it comes in."""

    def __init__(self, provider: str, model: str) -> None:
        self.model: str | None = model
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.ended = ""
        self._provider = provider
        self._parts: list[str] = []
        self._size = 0

    def add(self, text: str) -> None:
        """Takes a part of it."""
        self._size += len(text)
        if self._size > ANSWER_BYTES:
            raise _too_long(self._provider)
        self._parts.append(text)

    def completion(self, complete: set[str]) -> Completion:
        """The whole. Raises ProviderError where it did not end as one of `complete`."""
        if self.ended in ("max_tokens", "length"):
            raise ProviderError(
                f"The answer of {self._provider} was cut off at its limit of tokens.",
                "Raise max_tokens in the skill, or give it less to do.",
            )
        if self.ended not in complete:
            how = f"ended as {texts.shorten(self.ended, 40)}" if self.ended else "broke off"
            raise ProviderError(f"The answer of {self._provider} {how}.", "Try again.")
        return Completion("".join(self._parts), self.model, self.input_tokens, self.output_tokens)


def _too_long(who: str) -> ProviderError:
    return ProviderError(
        f"{who} gave an answer of more than {ANSWER_BYTES // 1_000_000} MB.", "Ask for less at a time."
    )
