"""Who answers a skill's prompt: a command, or a model behind an HTTP API.

A provider is an object with `complete`. The clients of the two APIs are an optional extra (`loom-agents[providers]`)
and imported when they are used. They honour `retry-after` and try again a few times; a deadline bounds it all. Keys
come from the environment and appear in no error.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from loom.config import API_KEY_VARIABLE, LoomConfig, mask
from loom.exceptions import ConfigError, ProviderError
from loom.graph import views
from loom.skills.answers import ANSWER_BYTES

MAX_TOKENS = 16_000  # of an answer, where neither skill nor caller says
RETRIES = 4
_ERROR_BYTES = 4_000
_GRACE = 1.0  # seconds from SIGTERM to SIGKILL
_LOOK = 0.02  # seconds between two looks whether a command has ended
_DRAIN = 1.0  # seconds for the end of its output


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
                    "Run `loom config set skills.command 'claude -p'`, or name another command.",
                )
            return Command(skills.command, config.project_dir)
        case "anthropic" | "openai":
            kind = Anthropic if wanted == "anthropic" else OpenAI
            return kind(config.skills_api_key, skills.base_url, skills.model)
    raise ConfigError(f"skills.provider is {wanted}, which does not exist.", "Use agent, command, anthropic or openai.")


class Command:
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
        try:
            transport, talk = await asyncio.get_running_loop().subprocess_exec(
                _Talk,
                *self._words,
                cwd=self._directory,
                env={name: value for name, value in os.environ.items() if name != API_KEY_VARIABLE},
                start_new_session=True,
            )
        except OSError as error:
            raise ProviderError(
                f"The command {self._words[0]} cannot be started: {error.strerror}.", "Correct skills.command."
            ) from None
        try:
            pipe = transport.get_pipe_transport(0)
            assert isinstance(pipe, asyncio.WriteTransport)
            pipe.write(prompt.encode(errors="replace"))
            pipe.close()  # when all is written
            async with asyncio.timeout(timeout):
                await talk.ended.wait()
            await _end(transport.get_pid())
            with suppress(TimeoutError):  # a process that has escaped may hold the pipe for ever
                await asyncio.wait_for(talk.drained.wait(), _DRAIN)
        except TimeoutError:
            raise ProviderError(
                f"The command {self._words[0]} gave no answer within {timeout:g} seconds.",
                "Try again, or give it less to do.",
            ) from None
        finally:
            await _end(transport.get_pid())
            transport.close()
        if len(talk.out) > ANSWER_BYTES:
            raise _too_long(f"The command {self._words[0]}")
        if status := transport.get_returncode():
            said = views.clean(talk.err.decode(errors="replace")).strip()[-500:] or "it said nothing"
            raise ProviderError(
                f"The command {self._words[0]} ended with status {status}: {mask(said)}", "Run it by hand to see why."
            )
        return Completion(talk.out.decode(errors="replace"), model)


class _Talk(asyncio.SubprocessProtocol):
    """What a command says; `ended` when it has exited or said too much, `drained` when nothing more can come."""

    def __init__(self) -> None:
        self.out, self.err = bytearray(), bytearray()
        self.ended, self.drained = asyncio.Event(), asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.err += data
            del self.err[:-_ERROR_BYTES]
        elif len(self.out) <= ANSWER_BYTES:
            self.out += data
            if len(self.out) > ANSWER_BYTES:
                self.ended.set()

    def process_exited(self) -> None:
        self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.drained.set()


async def _end(group: int) -> None:
    """Ends what lives of a command's group: asked with SIGTERM, after a moment with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + _GRACE
        try:
            os.killpg(group, number)
            while time.monotonic() < until:
                await asyncio.sleep(_LOOK)
                os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return


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

    async def _needs(self, model: str | None) -> tuple[Any, str, str]:
        """The client's package, the key and the model, or what to do to have them."""
        chosen = model or self._model
        if not chosen:
            raise ConfigError(
                f"The provider {self.name} needs a model.",
                "Run `loom config set skills.model NAME`, or set it in the skill.",
            )
        if not self._key and not self._base_url:
            raise ConfigError(f"The provider {self.name} needs a key.", f"Set {API_KEY_VARIABLE} or {self.variable}.")
        try:
            return await asyncio.to_thread(import_module, self.package), self._key or "none", chosen
        except ImportError:
            raise ConfigError(
                f"The provider {self.name} needs the package {self.package}.",
                "Install it with `pip install 'loom-agents[providers]'`.",
            ) from None

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
            where = mask(self._base_url) if self._base_url else "its API"
            raise ProviderError(
                f"{self.name} cannot be reached at {where}, or broke off.", "Check skills.base_url and the network."
            ) from None
        except (package.APIError, ValueError, TypeError, AttributeError) as error:
            raise ProviderError(
                f"{self.name} sent something that is not its API ({type(error).__name__}).", "Check skills.base_url."
            ) from None

    def _status(self, error: Any) -> ProviderError:
        said = views.clean(" ".join(str(getattr(error, "message", "")).split()))
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
        return ProviderError(f"{self.name} answered {error.status_code}: {mask(said)[:300]}", step)


class Anthropic(_Api):
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


class OpenAI(_Api):
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
            how = f"ended as {self.ended[:40]}" if self.ended else "broke off"
            raise ProviderError(f"The answer of {self._provider} {how}.", "Try again.")
        return Completion("".join(self._parts), self.model, self.input_tokens, self.output_tokens)


def _too_long(who: str) -> ProviderError:
    return ProviderError(
        f"{who} gave an answer of more than {ANSWER_BYTES // 1_000_000} MB.", "Ask for less at a time."
    )
