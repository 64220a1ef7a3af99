"""The supervisor's brain: open escalations are diagnosed by a model, and what it is sure of is carried out.

One at a time: an escalation is taken, in Postgres, so that no other supervisor works on it and none is lost when this
one dies; a model is asked; and in one transaction, if nobody has decided meanwhile, its diagnosis is recorded and
carried out, or left to a person. How often a model is asked, how deep fixes of fixes go and how often one task is
mended is bounded (`graph/rules/diagnoses.py`), whatever the model says and however many supervisors there are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loom import ids, texts
from loom.background import end
from loom.exceptions import AnswerError, ConfigError, InvalidInputError, LoomError, TaskStateError
from loom.graph.rules import diagnoses
from loom.graph.store import diagnoses as rows
from loom.graph.store.escalations import EscalationKind
from loom.orchestration.patience import Patience
from loom.skills import asking, diagnosis, loader, providers

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.rules.diagnoses import Case
    from loom.graph.store.escalations import Escalation
    from loom.graph.store.transaction import Transaction
    from loom.skills.completion import Provider
    from loom.skills.loader import Skill

_LOG = logging.getLogger(__name__)
_ANSWER_SECONDS = 300.0  # for an answer; a wrong one goes back once
_TAKEN_SECONDS = 2 * _ANSWER_SECONDS + 60.0  # after that another supervisor may take the escalation
_PAUSES = (60.0, 3600.0)  # seconds without asking after an error: the first one, the longest
_GRACE = 4.0  # seconds for a provider to end its command
_TOLD = 300  # characters of an error


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """What came of one escalation: the `reply` of `diagnosis.carry_out`; only `left` where no model was of use."""

    escalation: str
    task_id: str
    reply: Mapping[str, Any]


class Brain:
    """Diagnoses the open escalations of one project."""

    def __init__(self, loom: Loom, skill: Skill, provider: Provider) -> None:
        """
        Args:
            skill: what the model is asked; answers as Loom's own `debug_failure`.
        """
        self._loom, self._skill, self._provider = loom, skill, provider
        self._name = ids.agent_name("brain")  # of its own, so that what it has taken is told from what others have
        self._limits = loom.config.orchestration
        self._news: list[Diagnosed] = []
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._patience, self._rest_until = Patience("Diagnosing", *_PAUSES), 0.0
        self._enough_until: datetime | None = None  # as it was said

    @classmethod
    def of(cls, loom: Loom) -> Brain:
        """A brain with the project's skill and provider; connects to nothing.

        Raises:
            ConfigError: no provider is set that answers by itself, or it lacks something.
        """
        skill = loader.load(loom.config).get(diagnosis.SKILL)
        provider = providers.choose(loom.config, skill.provider)
        if provider is None:
            raise ConfigError(
                "To diagnose failures a model must be asked, and no provider is set.",
                "Set skills.provider: `claude`, `codex`, or one with its model and key; or skills.command.",
            )
        provider.check(skill.model)
        return cls(loom, skill, provider)

    def start(self) -> None:
        """Begins to work in the running event loop, whenever it is woken."""
        self._task = asyncio.create_task(self._work(), name="loom brain")

    async def stop(self) -> None:
        """Ends; what was being diagnosed is given back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_GRACE)  # asked again sooner it could not end its command
            await end([self._task])
            self._task = None

    def wake(self) -> None:
        """Has it look whether there is something to diagnose. Raises the ConfigError that ended it, if one has."""
        if self._task is not None and self._task.done():
            self._task.result()
        self._woken.set()

    def news(self) -> tuple[Diagnosed, ...]:
        """What was diagnosed since this was last called."""
        news, self._news = tuple(self._news), []
        return news

    async def work_off(self) -> None:
        """Diagnoses what is open and may be diagnosed now, one after the other. An error is logged, once until an
        answer comes, and for a while nobody is asked.

        Raises:
            ConfigError: the provider lacks something that only a person can set.
        """
        try:
            while time.monotonic() >= self._rest_until and (case := await self._next()):
                await self._see_to(case)
        except ConfigError:
            raise
        except Exception as error:
            self._rest_until = time.monotonic() + self._patience.after(error)

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            await self.work_off()

    async def _next(self) -> Case | None:
        if not await self._loom.look(lambda connection: rows.any_pending(connection, self._loom.project_id)):
            return None
        case = await self._loom.transact(
            lambda tx: diagnoses.take(
                tx,
                self._name,
                _TAKEN_SECONDS,
                per_hour=self._limits.diagnoses_per_hour,
                fix_depth=self._limits.fix_depth,
            )
        )
        if not isinstance(case, datetime):
            return case
        if case != self._enough_until:
            self._enough_until = case
            _LOG.warning(
                "Diagnosing waits until %s: orchestration.diagnoses_per_hour is %d, and so often models were asked.",
                f"{case.astimezone():%H:%M:%S}",
                self._limits.diagnoses_per_hour,
            )
        return None

    async def _see_to(self, case: Case) -> None:
        """One escalation that was taken, up to its diagnosis; where that fails it is given back."""
        taken = case.escalation
        if case.left:
            self._note(taken, {"left": case.left})
            return
        try:
            await self._diagnose(taken)
        except BaseException:
            with suppress(LoomError):
                await asyncio.shield(self._loom.transact(lambda tx: rows.give_back(tx, taken.id, self._name)))
            raise
        self._patience.renew()

    async def _diagnose(self, taken: Escalation) -> None:
        inputs = await diagnosis.material(self._loom, taken.task_id)
        title = inputs["task"]["title"]
        try:
            run = await asking.run(
                self._loom,
                self._skill,
                inputs,
                self._provider,
                check=lambda answer: diagnosis.problems(answer, title=title),
                agent_id=self._name,
                timeout=_ANSWER_SECONDS,
            )
        except AnswerError as error:
            await self._leave(taken, f"The model's answer could not be used: {error.cause}")
            return
        answer = run.output
        assert answer is not None, "the run is done"

        async def mend(tx: Transaction) -> dict[str, Any] | None:
            if not await diagnoses.still_open(tx, taken):
                return None
            return await diagnosis.carry_out(
                tx,
                taken.task_id,
                answer,
                agent=self._name,
                max_attempts=self._loom.max_attempts,
                run_id=run.id,
                left=_unsure(taken, answer),
            )

        try:
            reply = await self._loom.transact(mend)
        except (AnswerError, InvalidInputError, TaskStateError) as error:
            await self._leave(taken, f"The diagnosis could not be carried out: {error.cause}")
        else:
            if reply is not None:  # else somebody was faster
                self._note(taken, reply)

    async def _leave(self, taken: Escalation, why: str) -> None:
        """Leaves an escalation to a person, unless somebody has decided meanwhile."""
        left = texts.shorten(texts.clean(why), _TOLD)

        async def leave(tx: Transaction) -> bool:
            if held := await diagnoses.still_open(tx, taken):
                await diagnoses.leave(tx, taken, left, by=self._name)
            return held

        if await self._loom.transact(leave):
            self._note(taken, {"left": left})

    def _note(self, taken: Escalation, reply: Mapping[str, Any]) -> None:
        self._news.append(Diagnosed(taken.id, taken.task_id, reply))


def _unsure(taken: Escalation, answer: Mapping[str, Any]) -> str | None:
    """Why a diagnosis is left to a person, beyond what it says itself; None: it is carried out."""
    if answer["confidence"] == "low":
        return "The model is not sure."
    sure = answer["confidence"] == "high" and answer["action"] == "fix_first"
    if taken.kind is EscalationKind.QUESTION and not sure:
        return "A question is answered by a person, unless it is sure what must be repaired first."
    return None
