"""Reviews: whether what a command handed in for its task counts as done, in the eyes of the skill `review_output`.

    reviewer = Reviewer(loom)
    review = await reviewer.review(claim, material(output, ended), changes, agent)

Who cannot tell has not accepted: the command gets the chance to show what was missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loom import replies, texts
from loom.exceptions import ConfigError, InvalidInputError
from loom.graph.model import limits
from loom.graph.store.proofs import Proof, of_task
from loom.orchestration.workers import result
from loom.process import Ended
from loom.skills import answers, asking, loader, providers
from loom.wording import Shell, Words

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.store import Claim

SKILL = "review_output"
_OUTPUT_CHARACTERS = 60_000  # of the JSON that was handed in
_PRINTED_BYTES = 8_000  # of each stream
_REASON_CHARACTERS = 2_000  # at most 8 kB, whatever the script
_PROOFS = 100  # runs of checks that are looked at
_TASK = ("id", "title", "done_when", "files", "checks", "context", "notes")
# What is used of an answer, whatever a project's own skill of that name asks for.
_NEEDED: Mapping[str, Any] = {
    "type": "object",
    "required": ["verdict", "summary", "findings"],
    "properties": {
        "verdict": {"enum": ["accept", "send_back", "cannot_tell"]},
        "summary": {"type": "string"},
        "findings": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["severity", "what", "fix"],
                "properties": {name: {"type": "string"} for name in ("severity", "what", "fix", "where")},
            },
        },
    },
}


@dataclass(frozen=True, slots=True)
class Review:
    """What a review said, in texts without characters that cannot be seen. `blockers` and `findings`, which begin with
    them, have a line for each."""

    run_id: str
    verdict: str
    summary: str
    blockers: tuple[str, ...]
    findings: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether the output counts as done."""
        return self.verdict == "accept"

    @property
    def reason(self) -> str:
        """Why the task has failed, when it was not accepted for good."""
        how = "could not tell whether it is done" if self.verdict == "cannot_tell" else "sent it back"
        text = " ".join(
            [f"The review {how}, after a second run too: {self.summary}", *(self.blockers or self.findings)]
        )
        return texts.shorten(text, _REASON_CHARACTERS)

    def noted_in(self, output: dict[str, Any]) -> dict[str, Any]:
        """An output that was accepted, with a word on that for who goes on with it, where there is room."""
        noted = {"review": {"run_id": self.run_id, "summary": self.summary}} | output
        try:
            limits.output(noted)
        except InvalidInputError:
            return output
        return noted


class Reviewer:
    """Has outputs reviewed by the configured provider."""

    def __init__(self, loom: Loom) -> None:
        """Raises ConfigError where no provider is configured or it lacks something, SkillNotFoundError."""
        self._loom = loom
        self._skill = loader.load(loom.config).get(SKILL)
        provider = providers.choose(loom.config, self._skill.provider)
        if provider is None:
            raise ConfigError(
                "No provider is configured that could review.",
                Words("Run {}, or work without a review.", Shell("loom config set skills.provider claude")),
            )
        provider.check(self._skill.model)
        self._provider = provider

    async def review(self, claim: Claim, handed_in: str, seen: str, agent: str) -> Review:
        """Asks once; the run is recorded.

        Args:
            handed_in: see `material`.
            seen: what Loom itself has seen of the work; left out where a project's own skill has no place for it.

        Raises:
            ProviderError, AnswerError, SkillError, InvalidInputError, ConfigError: there is no review.
        """
        facts = replies.fit(replies.claimed(claim))
        task = {name: facts[name] for name in _TASK if name in facts}
        inputs = {"task": task, "output": handed_in}
        if any(one.name == "evidence" for one in self._skill.inputs):
            inputs["evidence"] = "\n\n".join(part for part in (seen, await self._checks(claim)) if part)
        run = await asking.run(self._loom, self._skill, inputs, self._provider, check=self._problems, agent_id=agent)
        assert run.output is not None, "it is done"
        return _read(run.id, run.output)

    async def _checks(self, claim: Claim) -> str:
        """What Loom has seen of the checks that ran for a claim, a line for the newest run of each; "" if none did."""
        task, newest = claim.task, dict[str, Proof]()
        for one in await self._loom.look(
            lambda connection: of_task(connection, task.project_id, task.id, _PROOFS, token=task.claim_token)
        ):
            newest.setdefault(one.check_name, one)
        lines = [f"- {name}: {_state(one)}" for name, one in sorted(newest.items())]
        return "\n".join(["Loom ran these checks on the work:", *lines]) if lines else ""

    def _problems(self, answer: dict[str, Any]) -> list[str]:
        """What is wrong with an answer."""
        found = answers.problems(answer, self._skill.outputs) or answers.problems(answer, _NEEDED)
        if not found and answer["verdict"] == "accept" and any(map(_blocks, answer["findings"])):
            return ["output.verdict is accept, but a finding is a blocker: decide which."]
        return found


def material(output: Mapping[str, Any], ended: Ended) -> str:
    """What a command handed in, as the reviewer reads it: its output, and the last that it printed."""
    text = json.dumps(output, ensure_ascii=False, indent=1)
    text = texts.shorten(text, _OUTPUT_CHARACTERS, f"{len(text):,} characters in all")
    parts = [f"Output:\n{text}"]
    printed = result.tail(ended.out, _PRINTED_BYTES)
    if printed and printed != output.get("text"):
        parts.append(f"The last that its command printed:\n{printed}")
    if said := result.tail(ended.err, _PRINTED_BYTES):
        parts.append(f"The last that it printed on standard error:\n{said}")
    return "\n\n".join(parts)


def _state(one: Proof) -> str:
    if one.ended_at is None:
        return "still running"
    if one.exit_status is None:
        return "ended without a result"
    how = "green" if one.green else f"red, exit status {one.exit_status}"
    return f"{how}, in {one.seconds or 0:.1f} s{', in a second run' if one.flaky else ''}"


def _read(run_id: str, answer: Mapping[str, Any]) -> Review:
    blockers = tuple(_line(one) for one in answer["findings"] if _blocks(one))
    minor = tuple(_line(one) for one in answer["findings"] if not _blocks(one))
    return Review(run_id, answer["verdict"], texts.one_line(answer["summary"]), blockers, blockers + minor)


def _blocks(finding: Mapping[str, Any]) -> bool:
    return bool(finding["severity"] == "blocker")


def _line(finding: Mapping[str, Any]) -> str:
    where = f" ({finding['where']})" if finding.get("where") else ""
    return texts.one_line(f"- {finding['severity']}{where}: {finding['what']} To do: {finding['fix']}")
