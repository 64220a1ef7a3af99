"""What a provider is: an object that answers prompts, with `check` and `complete`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from loom.exceptions import ProviderError
from loom.skills.answers import ANSWER_BYTES


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
        timeout: float,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Completion:
        """Answers a prompt within `timeout` seconds.

        Args:
            schema: of the JSON object that is asked for; the prompt names it too.

        Raises:
            ProviderError: no answer, or a part of one; ConfigError: something is not set.
        """
        ...


def too_long(who: str) -> ProviderError:
    """The error for an answer that does not end."""
    return ProviderError(
        f"{who} gave an answer of more than {ANSWER_BYTES // 1_000_000} MB.", "Ask for less at a time."
    )
