"""Models behind an HTTP API: Anthropic's, and that of OpenAI and whoever speaks it.

The clients are an optional extra (`loom-agents[providers]`) and imported when they are used. They honour `retry-after`
and try again a few times; a deadline bounds it all. Keys come from the environment and appear in no error.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from loom import caller, texts
from loom.config import API_KEY_VARIABLE
from loom.exceptions import ConfigError, ProviderError
from loom.skills.answers import ANSWER_BYTES
from loom.skills.completion import Completion, too_long
from loom.wording import Shell, Words

MAX_TOKENS = 16_000  # of an answer, where neither skill nor caller says
RETRIES = 4


class ApiProvider(ABC):
    """What the two HTTP APIs share: all but their requests and their events."""

    name: str
    package: str
    """The client's package, which is imported when it is used."""
    client: str
    """The client's class in it."""
    variable: str
    """The environment variable in which the provider's own key is looked for."""
    ends: Collection[str]
    """Why a whole answer ends, as the API says it."""

    def __init__(self, key: str | None, base_url: str | None, model: str | None) -> None:
        """
        Args:
            key: by default that of the provider's own variable.
        """
        self._key = key or caller.environ().get(self.variable)
        self._base_url = base_url
        self._model = model

    def check(self, model: str | None = None) -> None:
        """Whether there are a model, a key and the client's package; see `Provider`."""
        self._chosen(model)
        if not self._key and not self._base_url:
            raise ConfigError(f"The provider {self.name} needs a key.", f"Set {API_KEY_VARIABLE} or {self.variable}.")
        if find_spec(self.package) is None:
            raise self._not_installed()

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
        """Asks once, as a stream; see `Provider`."""
        package, key, chosen = await self._needs(model)
        question = _Question(prompt, schema, chosen, temperature, max_tokens or MAX_TOKENS)
        answer = _Answer(self.name, chosen)
        connect = getattr(package, self.client)
        async with (
            self._telling(package, timeout),
            connect(api_key=key, base_url=self._base_url, max_retries=RETRIES, timeout=timeout) as client,
        ):
            await self._ask(client, question, answer, package)
        return answer.completion(self.ends)

    @abstractmethod
    async def _ask(self, client: Any, question: _Question, answer: _Answer, package: Any) -> None:
        """Sends the question and takes the answer in. Raises the errors of `package`."""

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
            f"Install it beside Loom: `pipx inject loom-agents {self.package}`, or with pip in Loom's environment.",
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


class AnthropicProvider(ApiProvider):
    """Anthropic's Messages API; the answer comes as the input of a tool that has the schema."""

    name = "anthropic"
    package = "anthropic"
    client = "AsyncAnthropic"
    variable = "ANTHROPIC_API_KEY"
    ends = ("tool_use", "end_turn", "stop_sequence")

    async def _ask(self, client: Any, question: _Question, answer: _Answer, package: Any) -> None:
        request: dict[str, Any] = {
            "model": question.model,
            "max_tokens": question.max_tokens,
            "messages": [{"role": "user", "content": question.prompt}],
            "tools": [{"name": "answer", "description": "Gives the answer.", "input_schema": dict(question.schema)}],
            "tool_choice": {"type": "tool", "name": "answer"},
        }
        if question.temperature is not None:  # newer models do without; the client too
            request["extra_body"] = {"temperature": min(question.temperature, 1.0)}
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


class OpenAIProvider(ApiProvider):
    """The Chat Completions API, of OpenAI or of whoever speaks it at `skills.base_url`."""

    name = "openai"
    package = "openai"
    client = "AsyncOpenAI"
    variable = "OPENAI_API_KEY"
    ends = ("stop",)

    async def _ask(self, client: Any, question: _Question, answer: _Answer, package: Any) -> None:
        shape = {"name": "answer", "schema": dict(question.schema), "strict": False}
        request: dict[str, Any] = {
            "model": question.model,
            "messages": [{"role": "user", "content": question.prompt}],
            "response_format": {"type": "json_schema", "json_schema": shape},
            "stream_options": {"include_usage": True},
            # The newer name is OpenAI's own; who else speaks the API knows the older one.
            "max_tokens" if self._base_url else "max_completion_tokens": question.max_tokens,
        }
        if question.temperature is not None:
            request["temperature"] = question.temperature
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


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked: a prompt, the schema of the answer, by which model, and within how many tokens."""

    prompt: str
    schema: Mapping[str, Any]
    model: str
    temperature: float | None
    max_tokens: int


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
            raise too_long(self._provider)
        self._parts.append(text)

    def completion(self, complete: Collection[str]) -> Completion:
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
