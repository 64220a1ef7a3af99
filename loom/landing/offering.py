"""Offering landed work where the target itself cannot be pushed to: a command of the user's, once for each branch.

A branch is pushed under its own name, and the command, such as `[gh, pr, create, …]`, is run in the repository.
In its words `{task}`, `{branch}`, `{title}` and `{target}` stand for those. A ref notes it before it is run, so that of
two who land at once one does; where it fails, that is told, and the ref goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loom import process, texts
from loom.exceptions import CommandError
from loom.git import Repository
from loom.landing import refs
from loom.texts import one_line, shorten

_SECONDS = 120.0  # for the remote, and for the command
_OUT_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Offer:
    """A branch whose work has landed. `target`: where it was meant to."""

    task_id: str
    title: str
    branch: str
    commit: str
    target: str


async def offer(repository: Repository, remote: str, words: Sequence[str], one: Offer) -> bool:
    """Pushes a branch and runs the command for it, unless that was done. Returns whether it was run now. Raises
    CommandError: the remote refuses, or the command fails."""
    noted = refs.offered(one.task_id, one.commit)
    if not await refs.change(repository, f"create {noted} {one.commit}"):
        return False
    try:
        await repository.push(remote, f"{one.commit}:{refs.branch(one.branch)}", timeout=_SECONDS)
        await _run(repository, words, one)
    except BaseException:
        await refs.change(repository, f"delete {noted}")
        raise
    return True


async def _run(repository: Repository, words: Sequence[str], one: Offer) -> None:
    facts = {"task": one.task_id, "branch": one.branch, "title": one_line(one.title), "target": one.target}
    said = [_filled(word, facts) for word in words]
    env = process.environment({"LOOM_TASK_ID": one.task_id})
    try:
        ended = await process.run(said, env=env, cwd=repository.work_tree, timeout=_SECONDS, out_bytes=_OUT_BYTES)
    except TimeoutError:  # which is an OSError too
        raise CommandError(f"`{said[0]}` did not end within {_SECONDS:g} seconds, and was stopped.") from None
    except OSError as error:
        raise CommandError(f"`{said[0]}` cannot be started: {error.strerror}.", "Mend landing.propose.") from None
    if ended.status:
        why = (ended.err or ended.out).decode(errors="replace").strip().splitlines() or ["it did not say why"]
        raise CommandError(f"`{said[0]}` ended with exit status {ended.status}: {shorten(texts.said(why[-1]), 200)}")


def _filled(word: str, facts: Mapping[str, str]) -> str:
    """A word with the facts in their places."""
    return re.sub(r"\{(task|branch|title|target)\}", lambda found: facts[found[1]], word)
