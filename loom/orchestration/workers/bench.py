"""What the jobs of a process work with, and what they tell of how far they are."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from loom.landing.report import Reports
from loom.landing.worktrees import Worktrees, branch_of
from loom.orchestration.workers.prompt import Setting
from loom.orchestration.workers.resting import Rest
from loom.orchestration.workers.review import Reviewer
from loom.orchestration.workers.runners import COMMITTING, REPORTING, Errand, Runner
from loom.orchestration.workers.shift import Shift
from loom.orchestration.workers.shore import Shore
from loom.process import ProcessTrees

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.graph.store import Claim


class JobPhase(StrEnum):
    """What a worker just did with a task."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    SENT_BACK = "sent back"  # to the command: by a review, a check, who lands, or because it has not reported
    REPORTED = "reported"  # by the command itself
    PROVING = "proving"  # what it came to, merged with the branch that it is to land on
    QUEUED = "queued"  # to land; the worker is free for the next task
    LANDED = "landed"
    LOST = "lost"  # the claim; the report was refused
    GIVEN_BACK = "given back"

    @property
    def last(self) -> bool:
        """Whether the worker has nothing more to do with the task, for now."""
        return self not in (JobPhase.STARTED, JobPhase.SENT_BACK, JobPhase.PROVING)


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a worker is with a task. `seconds`: since it began with the task; `note`: what more there is to say."""

    phase: JobPhase
    agent: str
    task_id: str
    title: str
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all jobs of a process work with."""

    loom: Loom
    shift: Shift
    rest: Rest
    runner: Runner
    words: Sequence[str]  # the program, and what the user adds
    loom_words: Sequence[str]  # what starts Loom
    trees: ProcessTrees  # of the commands that run
    reports: Reports  # what proves work that does not land
    reviewer: Reviewer | None  # None: nothing is reviewed
    worktrees: Worktrees | None  # None: commands run where this process does
    shore: Shore | None  # None: nothing lands
    scratch: Path  # the directory for what commands hand in
    logs: Path
    tell: Callable[[JobProgress], None]

    def errand(self, claim: Claim, agent: str, place: Path, git_dir: Path | None) -> Errand:
        """What a session over this claim is for."""
        config = self.loom.config
        return Errand(
            task_id=claim.task.id,
            token=claim.task.claim_token,
            agent=agent,
            session=str(uuid.uuid4()),
            place=place,
            git_dir=git_dir,
            project_dir=config.project_dir,
            scratch=self.scratch,
            words=tuple(self.words),
            loom=tuple(self.loom_words),
            allow=(*(f"loom {word}" for word in REPORTING), *COMMITTING, *config.work.allow),
            checks=tuple(shlex.join(check.command) for check in config.checks.values()),
        )

    def setting(self, errand: Errand, *, left: bool = False) -> Setting:
        """What its prompt is made of beside the task. `left`: its worktree has what an earlier attempt left."""
        return Setting(
            project=self.loom.config.project_name,
            runner=self.runner,
            errand=errand,
            handed_in=self.scratch / f"{errand.task_id}-{errand.token}.json",
            branch=branch_of(errand.task_id) if self.worktrees else None,
            left=left,
            reviewed=self.reviewer is not None,
            target=self.shore.target if self.shore else None,
        )
