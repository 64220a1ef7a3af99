"""A job: one claim, from the start of its command to its report.

    job = Job(bench, agent, claim)
    await job.run()

The claim is kept while its session lasts (`session.py`). Where it is lost, its deadline has come, or nothing is heard
any more, the command is killed with all that it started. What has become of the claim is decided by the graph, then by
what was handed in, then by how the command has ended. Who has to report and did not is asked once; where it is wanted,
what is handed in is reviewed while the claim is held, and goes back once if it is not accepted.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loom import tracing
from loom.background import beside
from loom.exceptions import (
    CheckFailedError,
    CommandError,
    ConfigError,
    DatabaseUnavailableError,
    FileError,
    InvalidInputError,
    LoomError,
    ProofMissingError,
    ServersError,
    TargetError,
)
from loom.git import Person
from loom.graph.model import limits
from loom.graph.model.task import TaskStatus
from loom.graph.store import events
from loom.graph.store.landings import LandingState
from loom.landing import submodules
from loom.landing.bringing import Back, Ready
from loom.landing.keeping import kept
from loom.landing.worktrees import Worktree
from loom.orchestration.workers import result
from loom.orchestration.workers.bench import Bench, JobPhase, JobProgress
from loom.orchestration.workers.prompt import again, prompt, sent_back, unreported
from loom.orchestration.workers.review import Review, Reviewer, material
from loom.orchestration.workers.runners import End, EndKind, Errand
from loom.orchestration.workers.session import Session, Turn
from loom.orchestration.workers.shore import Shore
from loom.orchestration.workers.watch import Cut, Standing, Watch
from loom.process import environment

if TYPE_CHECKING:
    from loom.graph.rules.claims import Outcome
    from loom.graph.rules.proofs import Proven
    from loom.graph.store import Claim
    from loom.graph.store.landings import Landing

T = TypeVar("T")

_STOP_REPORT = 1.0  # seconds for giving the claim back when the shift is over
_SAID_CHARACTERS = 2_000  # of an agent's last words in a reason
_REASON_CHARACTERS = 2_000  # at most 8 kB, whatever the script
_MENDED = 2  # times that work goes back to its agent before the attempt has failed
_NOT_INHERITED = {"CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SESSION_ID"}  # each command is a new session


@dataclass(frozen=True, slots=True)
class _Ask:
    """What the session has to go on with, and why."""

    text: str
    why: str


@dataclass(frozen=True, slots=True)
class _Proven:
    """Where the proofs are of work that does not land; None: it needs none."""

    proven: Proven | None


class Job:
    """What becomes of one claim. `queued`: its work waits to land, and may come back."""

    def __init__(self, bench: Bench, agent: str, claim: Claim) -> None:
        """The time until the deadline counts from here."""
        self.queued = False
        self._bench, self._loom, self._shift = bench, bench.loom, bench.shift
        self._agent, self._claim, self._task = agent, claim, claim.task
        self._watch = Watch(bench.loom, bench.shift, claim.task)
        self._worktree: Worktree | None = None
        self._session: Session | None = None
        self._asked = self._reviewed = False  # once each
        self._idle = False  # he was asked why he has changed nothing
        self._mended = 0  # how often in a row its work went back

    async def run(self) -> None:
        """Sees to it, and tells how far it is: that it has begun, each time it is sent back, and what came of it."""
        self._tell(JobPhase.STARTED)
        await self._through(self._carry_out())

    async def resume(self, landing: Landing) -> None:
        """Goes on with work that came back from the queue, in the same session."""
        why = landing.reason or "It came back."
        self._tell(JobPhase.SENT_BACK, why)
        await self._through(self._go_on(Back(why, landing.note or "")))

    async def conclude(self, landing: Landing) -> None:
        """Takes note of what became of work that was queued."""
        if landing.state is LandingState.LANDED:
            self._tell(JobPhase.LANDED, f"{(landing.landed_commit or '')[:12]} on {landing.target}")
        else:
            self._tell(JobPhase.LOST, landing.dropped_for or "it was taken out of the queue")
        await self._note(landing.state)

    async def _through(self, work: Coroutine[Any, Any, _Report]) -> None:
        task = self._task
        what: tracing.Attributes = {
            tracing.OPERATION: tracing.INVOKE_AGENT,
            tracing.AGENT: self._agent,
            tracing.TASK: task.id,
            tracing.ATTEMPT: task.attempt,
        }
        with tracing.span(f"attempt {task.id}", what) as span:
            await self._loom.join_trace(task.id)
            try:
                phase, note = await work
            finally:
                self._leave()
            if span is not None:
                span.set_attributes({tracing.OUTCOME: phase, **self._used()})
        self.queued = phase is JobPhase.QUEUED
        self._tell(phase, note)

    def _used(self) -> dict[str, int]:
        """What the attempt has used, for its span."""
        usage = self._session.usage if self._session else None
        known = {tracing.INPUT_TOKENS: usage.input_tokens, tracing.OUTPUT_TOKENS: usage.output_tokens} if usage else {}
        return {name: value for name, value in known.items() if value is not None}

    def _tell(self, phase: JobPhase, note: str = "") -> None:
        task = self._task
        self._bench.tell(JobProgress(phase, self._agent, task.id, task.title, self._watch.seconds, note))

    # --- the session --------------------------------------------------------------------------------------------------

    async def _carry_out(self) -> _Report:
        """Finds the command its place, and has it work there."""
        task, bench = self._task, self._bench
        try:
            await self._find_a_place()
        except (LoomError, OSError) as error:
            return await self._ended_by(error, "Its git worktree could not be made")
        tree = self._worktree
        if tree is not None and not isinstance(found := await self._set_up(tree), str):
            return found
        place, git_dir = (tree.path, tree.repository.git_dir) if tree else (Path.cwd(), None)
        errand = bench.errand(self._claim, self._agent, place, git_dir)
        self._setting = bench.setting(errand, left=tree is not None and not tree.fresh)
        self._session = Session(
            bench.runner,
            errand,
            bench.trees,
            self._watch,
            env=self._environment(errand),
            log=bench.logs / f"{task.id}-{task.claim_token}.log",  # attempts are counted anew, claims never
            silence_seconds=self._loom.config.work.silence_seconds,
        )
        return await self._work(self._session, prompt(self._claim, self._setting), begin=True)

    async def _set_up(self, tree: Worktree, *, again: bool = False) -> _Report | str:
        """Makes the worktree one to work in; `again`: after something has come in that may ask for that. Returns what
        came of the claim where it fails, or must end, else what its agent has to see to himself, "" if nothing."""
        tree = replace(tree, fresh=tree.fresh and not again)
        bench, name = self._bench, f"{self._task.id}-setup.log"
        worktrees = bench.worktrees
        assert worktrees is not None, "it is one of them"

        async def prepare() -> list[str]:
            await worktrees.set_up(tree, self._loom.config, bench.trees, bench.logs / name)
            return await submodules.behind(tree.repository) if again else []

        async with beside(prepare()) as (preparing,):
            cut = await self._watch.over(preparing, (Standing.LAPSED, Standing.TAKEN))
        error = None if preparing.cancelled() else preparing.exception()
        if cut is Cut.LOST:
            return JobPhase.LOST, "its claim was lost while its worktree was set up"
        if cut is Cut.DEADLINE:
            return await self._fail(f"Its git worktree was set up until the deadline, for {self._watch.span:g} s.")
        if isinstance(error, CommandError) and again:
            return f"Your worktree could not be set up for what has come in. {error}"
        if isinstance(error, LoomError) and not tree.fresh:
            return await self._ended_by(error, "Its git worktree could not be set up")
        if isinstance(error, LoomError):  # which no other task would fare better with
            self._shift.end(error)
        elif error is not None:
            raise error
        return await self._give_back() if self._shift.over else _late(preparing.result())

    async def _go_on(self, back: Back) -> _Report:
        """Has it go on with what came back from the queue."""
        session, shore = self._session, self._bench.shore
        assert session is not None, "it was queued"
        assert shore is not None, "it was queued"
        task = (await self._loom.get(self._task.id)).task
        if task.status is not TaskStatus.CLAIMED or task.claim_token != self._task.claim_token:
            return JobPhase.LOST, "its claim ended meanwhile"
        self._task, self._claim = task, replace(self._claim, task=task)
        self._watch = session.watch = Watch(self._loom, self._shift, task, since=task.updated_at)
        self._mended = 0
        try:
            async with kept(self._loom, task, self._agent, task.claim_token):  # which nobody else renews
                await self._find_a_place()
                assert self._worktree is not None, "it has landed from one"
                back = await shore.conflict(self._worktree, task, self._agent) or back
                if not isinstance(found := await self._set_up(self._worktree, again=True), str):
                    return found
                return await self._work(session, sent_back(self._setting, back, found), begin=False)
        except (LoomError, OSError) as error:
            return await self._ended_by(error, "Its git worktree could not be taken up again")

    async def _find_a_place(self) -> None:
        """Makes its worktree, or takes it up again, and says that what is done there lands."""
        bench, task = self._bench, self._task
        if bench.worktrees is None:
            return
        project_id = self._loom.project_id
        reopened = await self._shift.asked(
            lambda: self._loom.look(lambda connection: events.reopened_at(connection, project_id, task.id))
        )
        tip = await bench.shore.tip() if bench.shore else None
        self._worktree = tree = await bench.worktrees.make(task.id, tip, later_than=reopened)
        if bench.shore:
            await bench.shore.begin(task, self._agent, tree)

    async def _work(self, session: Session, text: str, *, begin: bool) -> _Report:
        """Has it go on for as long as there is something to ask of it, and reports."""
        if self._shift.over:
            return await self._give_back()
        try:
            self._setting.handed_in.unlink(missing_ok=True)
            turn = await (session.begin(text) if begin else session.ask(text))
            while isinstance(found := await self._judge(turn), _Ask):
                self._tell(JobPhase.SENT_BACK, found.why)
                if self._shift.over:
                    return await self._give_back()
                self._setting.handed_in.unlink(missing_ok=True)
                turn = await session.ask(found.text)
        except (CommandError, FileError) as error:  # which no other task would fare better with
            self._shift.end(error)
            return await self._give_back()
        finally:
            self._setting.handed_in.unlink(missing_ok=True)
        if found[0] is not JobPhase.QUEUED:  # else it may go on
            how = "reported" if found[0] in (JobPhase.DONE, JobPhase.REPORTED) else turn.cut or turn.end.kind
            await self._note(how)
        return found

    def _environment(self, errand: Errand) -> dict[str, str]:
        """What the command finds in its environment, with a `loom` in its PATH to report with."""
        more = {**errand.environment(), "LOOM_OUTPUT_FILE": str(self._setting.handed_in)}
        more |= tracing.environment()
        more |= self._worktree.variables | _committing_as(self._agent) if self._worktree else {}
        env = environment(more, without=_NOT_INHERITED)
        if shutil.which("loom") is None:
            env["PATH"] = os.pathsep.join([env.get("PATH", os.defpath), str(Path(errand.loom[0]).parent)])
        return env

    async def _note(self, how: str) -> None:
        """Notes how the attempt went and what it has used, where the command tells."""
        session = self._session
        if session is None or not self._bench.runner.speaks or self._shift.over:
            return
        task, agent = self._task, self._agent
        data = {"runner": self._bench.runner.name, "end": how, "runs": session.runs}
        data |= {"usage": facts} if (facts := session.usage.facts()) else {}
        with suppress(LoomError):  # the task's report is made, and counts
            await self._shift.asked(lambda: self._loom.note_attempt(task.id, task.claim_token, data, agent_id=agent))

    # --- what has become of it ----------------------------------------------------------------------------------------

    async def _judge(self, turn: Turn) -> _Report | _Ask:
        """What came of a run, or what the agent has to be asked."""
        if turn.cut is Cut.STOPPED:
            return await self._give_back()
        if turn.cut is Cut.DEADLINE:
            await self._tidy()
            return await self._fail(f"The command ran until its deadline, for {self._watch.span:g} s, and was killed.")
        if turn.cut is Cut.LOST:
            return await self._report(turn, killed=True)
        if await self._watch.standing() is not Standing.HELD:
            return await self._report(turn)
        if (reported := await self._reported()) is not None:
            return await self._take(turn, reported)
        output, why = await asyncio.to_thread(self._handed_in, turn)
        if turn.end.kind not in (EndKind.LIMIT, EndKind.AWAY):
            self._bench.rest.succeeded()
        if turn.end.kind is EndKind.BROKEN:
            await self._tidy()
            return await self._fail(turn.end.said)
        if output is not None:
            return await self._take(turn, output)
        return await self._without_a_report(turn.end, why)

    async def _without_a_report(self, end: End, why: str) -> _Report | _Ask:
        """What an end means of which nothing was handed in. `why`: what was not taken."""
        match end.kind:
            case EndKind.AWAY if self._bench.rest.blames(self._task.id):
                await self._tidy()
                return await self._fail(f"Its provider was away for it again and again: {end.said}")
            case EndKind.LIMIT | EndKind.AWAY:
                rest = self._bench.rest.take(end)
                note = f"{rest.runner} rests until {rest.until.astimezone():%H:%M:%S}; {rest.why}"
                await self._tidy()
                return await self._said(JobPhase.GIVEN_BACK, self._release, note)
            case EndKind.LOGIN:
                self._shift.end(CommandError(f"{self._bench.runner.name} cannot work: {end.said}", end.advice))
                return await self._give_back(end.said)
            case EndKind.REFUSED:
                await self._tidy()
                return await self._fail(f"It was refused: {end.said}")
        if not self._asked:
            self._asked = True
            return _Ask(unreported(self._setting, why), why or "ended without a report")
        await self._tidy()
        return await self._fail(f"ended without a report: {end.said[-_SAID_CHARACTERS:] or 'it said nothing'}")

    async def _reported(self) -> dict[str, Any] | None:
        """What the agent has reported himself, where that is kept until it has landed."""
        shore, task = self._bench.shore, self._task
        return await self._shift.asked(lambda: shore.reported(task)) if shore else None

    async def _take(self, turn: Turn, output: dict[str, Any]) -> _Report | _Ask:
        """What becomes of an output that was handed in or reported while the claim is held."""
        shore, reviewer, note = self._bench.shore, self._bench.reviewer, ""
        brought = await (self._prove(turn, output) if shore is None else self._bring(shore, turn, output))
        if not isinstance(brought, Ready | _Proven):
            return brought
        if reviewer is not None:
            reviewed = await self._accept(reviewer, turn, output)
            if not isinstance(reviewed, Review):
                return reviewed
            output, note = reviewed.noted_in(output), f"accepted: {reviewed.summary}"
        if shore is not None and isinstance(brought, Ready):
            return await self._enter(shore, brought, output, note)
        await self._tidy()
        return await self._done(output, note, brought.proven if isinstance(brought, _Proven) else None)

    async def _accept(self, reviewer: Reviewer, turn: Turn, output: dict[str, Any]) -> Review | _Report | _Ask:
        """The review that has accepted an output, or what becomes of it instead."""
        review = await self._review(reviewer, turn, output)
        if not isinstance(review, Review):
            return review
        if not (review.accepted or self._reviewed):
            self._reviewed = True
            return _Ask(again(review, output), review.summary)
        if review.accepted:
            return review
        await self._tidy()
        return await self._fail(review.reason, output)

    def _handed_in(self, turn: Turn) -> tuple[dict[str, Any] | None, str]:
        """The output that a run has handed in, None where it has to and did not; and what was not taken."""
        said, file = self._said_by(turn), self._setting.handed_in
        if not self._bench.runner.must_report:
            return result.output(said, file), ""
        try:
            if turn.end.output is not None:
                limits.output(turn.end.output)
                return dict(turn.end.output), ""
            return result.handed_in(said, file), ""
        except InvalidInputError as error:
            return None, error.cause

    def _said_by(self, turn: Turn) -> bytes:
        """What was printed for people: of a command that prints its events, the last that its agent said."""
        return turn.end.said.encode() if self._bench.runner.speaks else turn.ended.out

    async def _review(self, reviewer: Reviewer, turn: Turn, output: dict[str, Any]) -> Review | _Report:
        """Has an output reviewed while its claim is held, or reports why there is no review."""
        shown = material(output, replace(turn.ended, out=self._said_by(turn)))

        async def ask() -> Review:
            return await reviewer.review(self._claim, shown, await self._changes(), self._agent)

        return await self._while_held(ask, turn, output, "reviewed", "under review")

    async def _while_held(
        self, ask: Callable[[], Awaitable[T]], turn: Turn, output: dict[str, Any], done: str, doing: str
    ) -> T | _Report:
        """What comes of something that is done with an output while its claim is held, or reports why nothing does."""
        async with beside(self._shift.asked(ask)) as (asking,):
            cut = await self._watch.over(asking, set(Standing) - {Standing.HELD})
        error = None if asking.cancelled() else asking.exception()
        if cut is Cut.LOST:
            return await self._report(turn, by="by somebody else")
        if cut is Cut.DEADLINE:
            why = f"Its output was {doing} until its deadline, {self._watch.span:g} s after the claim."
        elif isinstance(error, LoomError):
            return await self._ended_by(error, f"Its output could not be {done}", output)
        elif cut is None and (found := asking.result()) is not None:
            answer: T = found
            return answer
        if self._shift.over:
            return await self._give_back()
        await self._tidy()
        return await self._fail(why, output)

    async def _ended_by(self, error: LoomError | OSError, what: str, output: dict[str, Any] | None = None) -> _Report:
        """What becomes of a claim over an error: it fails, or is given back, and the shift ends, where no other task
        would fare better with that."""
        if (shared := await self._shared(error)) is not None:
            self._shift.end(shared)
        if self._shift.over:
            return await self._give_back()
        await self._tidy()
        return await self._fail(f"{what}. {error}", output)

    async def _shared(self, error: LoomError | OSError) -> LoomError | None:
        """What an error says of all tasks, None if it is of this one."""
        unproven = isinstance(error, ProofMissingError) and not self._task.checks
        if isinstance(error, LoomError) and (unproven or isinstance(error, TargetError | ConfigError)):
            return error
        return await self._bench.worktrees.trouble(error) if self._bench.worktrees else None

    # --- proving and landing ------------------------------------------------------------------------------------------

    async def _prove(self, turn: Turn, output: dict[str, Any]) -> _Proven | _Report | _Ask:
        """Proves what lies there, where the task needs that and does not land, or says what the agent has to mend."""

        async def prove() -> _Proven | Back:
            try:
                return _Proven(await self._bench.reports.proven(self._task, self._worktree, self._agent))
            except CheckFailedError as red:
                return Back(red.cause, "\n\n".join(f"{one['name']}:\n{one.get('tail', '')}" for one in red.checks))

        found = await self._while_held(prove, turn, output, "proven", "being proven")
        if not isinstance(found, Back):
            return found
        self._mended += 1
        if self._mended > _MENDED:
            return await self._give_up(found, output)
        return _Ask(sent_back(self._setting, found), found.why)

    async def _bring(self, shore: Shore, turn: Turn, output: dict[str, Any]) -> Ready | _Report | _Ask:
        """Commits, merges and proves what the agent has left, or says what he has to mend."""
        tree = self._worktree
        assert tree is not None, "what lands has a worktree"
        self._tell(JobPhase.PROVING, ", ".join(shore.checks(self._task)))

        async def bring() -> Ready | Back:
            return await shore.bring(tree, self._task, self._agent)

        found = await self._while_held(bring, turn, output, "brought to land", "being proven")
        if not isinstance(found, Back):
            return found
        self._mended += 1
        if self._mended > _MENDED or (found.nothing and self._idle):
            return await self._give_up(found, output)
        self._idle = found.nothing
        if not isinstance(late := await self._set_up(tree, again=True), str):
            return late
        try:
            await self._shift.asked(lambda: shore.send_back(self._task, self._agent, tree, found))
        except LoomError:
            return await self._report(turn)
        return _Ask(sent_back(self._setting, found, late), found.why)

    async def _give_up(self, back: Back, output: dict[str, Any]) -> _Report:
        """Has the attempt fail over what the agent has not mended."""
        await self._tidy()
        return await self._fail(f"{back.why} {back.note}".strip()[:_REASON_CHARACTERS], output)

    async def _enter(self, shore: Shore, ready: Ready, output: dict[str, Any], note: str) -> _Report:
        """Puts proven work into the queue, or finishes what brings nothing."""
        task, session = self._task, self._session
        assert session is not None, "it has worked"
        if ready.nothing:
            await self._tidy()
            return await self._said(
                JobPhase.DONE, lambda: shore.forgo(task, output), note or "it brought nothing to land"
            )
        usage = session.usage.facts()
        self._leave()  # whoever lands it removes it
        try:
            await self._shift.asked(lambda: shore.enter(task, ready, output, usage))
        except LoomError as refusal:
            return JobPhase.LOST, refusal.cause
        if self._shift.over:
            return JobPhase.LOST, "the workers were stopped; its work waits to land"
        waits = f"for your yes: loom landing approve {task.id}" if ready.needs_yes else f"for {shore.target}"
        return JobPhase.QUEUED, f"{waits}; {note}" if note else waits

    async def _changes(self) -> str:
        """What git shows of its work, where it has a worktree."""
        try:
            if self._bench.worktrees is None:
                return ""
            onto = self._bench.shore.target if self._bench.shore else "HEAD"
            return await self._bench.worktrees.changes(self._task.id, onto)
        except LoomError as error:
            return f"What was changed in its git worktree could not be seen. {error}"

    # --- the report ---------------------------------------------------------------------------------------------------

    async def _report(self, turn: Turn, *, killed: bool = False, by: str = "by the command itself") -> _Report:
        """Says how a command ended whose claim is not held any more, unless that was said. `killed`: because of that;
        `by`: who has said it."""
        standing = await self._watch.standing()
        if standing not in (Standing.TAKEN, Standing.LEFT):  # else somebody may be in the worktree already
            await self._tidy()
        if standing in (Standing.DONE, Standing.LEFT):
            return JobPhase.REPORTED, by
        output = None
        if standing is Standing.TAKEN:
            output = await asyncio.to_thread(result.output, self._said_by(turn), self._setting.handed_in)
        elif not (killed or turn.end.kind is EndKind.BROKEN or self._bench.reviewer):
            output, _ = await asyncio.to_thread(self._handed_in, turn)
        if output is not None:
            # A task that was taken is not done by this any more: the refusal keeps the output with its event.
            return await self._done(output | ({"killed": True} if killed else {}))
        if killed:
            return await self._fail("The command was killed because its claim was lost.")
        if turn.end.kind in (EndKind.DONE, EndKind.SILENT):
            return await self._fail("Its claim was lost before its output was taken.")
        return await self._fail(turn.end.said)

    def _leave(self) -> None:
        """Lets go of the worktree, with all that lies in it."""
        if self._worktree is not None and self._bench.worktrees is not None:
            self._bench.worktrees.leave(self._worktree)
            self._worktree = None

    async def _tidy(self) -> None:
        """Drops the worktree, before the report that lets somebody else go on with the task, in the same place."""
        if self._bench.worktrees and self._worktree:
            with suppress(LoomError):  # what cannot be removed stays
                await self._bench.worktrees.drop(self._worktree)

    async def _done(self, output: dict[str, Any], note: str = "", proven: Proven | None = None) -> _Report:
        task, token = self._task, self._task.claim_token
        return await self._said(
            JobPhase.DONE, lambda: self._loom.done(task.id, output, token=token, proven=proven), note
        )

    async def _fail(self, why: str, output: dict[str, Any] | None = None) -> _Report:
        """Says that the task has failed. `output`: what was handed in and does not count."""
        task = self._task
        return await self._said(
            JobPhase.FAILED, lambda: self._loom.fail(task.id, why, output=output, token=task.claim_token), why
        )

    async def _release(self) -> Outcome:
        return await self._loom.release(self._task.id, token=self._task.claim_token)

    async def _said(self, phase: JobPhase, say: Callable[[], Awaitable[Outcome]], note: str) -> _Report:
        """What became of saying so."""
        try:
            outcome = await self._shift.asked(say)
        except LoomError as refusal:
            return JobPhase.LOST, refusal.cause
        if outcome is None:
            return JobPhase.LOST, "the workers were stopped while the servers were away"
        if outcome.task.status is TaskStatus.FAILED:
            due = outcome.task.retry_at
            then = "a dead letter now" if due is None else f"tried again at {due.astimezone():%H:%M:%S}"
            note = f"{then}; {note}"
        return phase, note

    async def _give_back(self, note: str = "") -> _Report:
        """Releases the claim, its attempt refunded, unless the servers are away: then it lapses."""
        try:
            await asyncio.wait_for(self._release(), _STOP_REPORT)
        except (DatabaseUnavailableError, ServersError, TimeoutError):
            return JobPhase.LOST, "the servers are away; its lease runs out"
        except LoomError as refusal:
            return JobPhase.LOST, refusal.cause
        return JobPhase.GIVEN_BACK, note


_Report = tuple[JobPhase, str]
"""What came of a claim, and what more there is to say."""


def _late(paths: Sequence[str]) -> str:
    """What an agent is told of submodules that lie in his worktree as they were before the target moved them."""
    return "\n".join(
        f"The submodule {path} lies in your worktree at another commit than your branch names now. Bring it there: git"
        f" submodule update -- {shlex.quote(path)}"
        for path in paths
    )


def _committing_as(agent: str) -> dict[str, str]:
    """By what git, in the agent's worktree, knows whose its commits are, and asks nobody for a signature."""
    who = Person.agent(agent)
    return {
        **who.variables("AUTHOR"),
        **who.variables("COMMITTER"),
        "GIT_CONFIG_PARAMETERS": "'commit.gpgsign=false'",
    }
