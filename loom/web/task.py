"""The page of one task: all that is known of it, and all that can be done with it; its log and diff beside that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from loom import ids, texts
from loom.config import logs_dir
from loom.exceptions import FileError, InvalidInputError
from loom.graph.front import Loom
from loom.graph.model.notes import without_notes
from loom.graph.store import messages
from loom.landing.worktrees import Worktrees
from loom.orchestration.printed import Log, logged
from loom.web.attempts import attempts, together
from loom.web.pages import cursor
from loom.web.rendering import loom_of, page

_HISTORY = 300  # events
_SAID = 50  # messages
_END = 12  # lines of a log that stand on the task's page


async def show(request: Request) -> Response:
    """One task with all around it."""
    loom, since = loom_of(request), await cursor(request)
    found = await loom.get(request.path_params["task_id"])
    one, history = found.task, await loom.history(found.task.id, limit=_HISTORY)
    around = [one.id, *(other.id for other in (*found.dependencies, *found.dependents, *found.children))]
    question = next(
        (raised for raised in found.escalations if raised.kind == "question" and not raised.resolution), None
    )
    tried = attempts(history, found.proofs, datetime.now(UTC), found.landing)
    return page(
        request,
        "task.html",
        section="task",
        since=since,
        live=" ".join(around),
        one=one,
        found=found,
        epic=(await loom.titles([one.parent_id])).get(one.parent_id, one.parent_id) if one.parent_id else "",
        brief=without_notes(one.context),
        question=question,
        history=history[::-1],
        attempts=tried,
        used=together([attempt.used for attempt in tried]),
        talk=await _talk(loom, one.id),
        printed=await asyncio.to_thread(_printed, loom, one.id, _END) if one.claim_token else None,
        logs=await asyncio.to_thread(logged, one.id, logs_dir(loom.config)) if one.claim_token else {},
    )


async def _talk(loom: Loom, task_id: str) -> Sequence[messages.Message]:
    """What agents wrote to each other in the task's thread, oldest first, for whoever may read that."""
    if not loom.may("messages"):
        return []
    return await loom.look(lambda connection: messages.thread(connection, loom.project_id, task_id, _SAID))


def _printed(loom: Loom, task_id: str, lines: int) -> tuple[str, str] | None:
    """Where the log of a task lies, and its last lines; None where there is none on this machine."""
    try:
        with Log(task_id, loom.config) as opened:
            return str(opened.path), "\n".join(opened.more().rstrip().splitlines()[-lines:])
    except FileError:
        return None


async def log(request: Request) -> Response:
    """The end of what the command of an attempt at a task has printed, by default that of the newest, where it ran on
    this machine."""
    loom, asked = loom_of(request), request.query_params.get("claim")
    token = None if asked is None else ids.claim_token(asked)
    if asked is not None and token is None:
        raise InvalidInputError("That is no attempt.", "Open it from the page of its task.")
    found = await loom.get(request.path_params["task_id"])

    def read() -> tuple[str, str]:
        with Log(found.task.id, loom.config, token) as opened:
            return str(opened.path), opened.more()

    path, text = await asyncio.to_thread(read)
    lines = [("", line) for line in text.rstrip().split("\n")]
    return page(
        request,
        "text.html",
        one=found.task,
        what="What its newest command printed" if token is None else "What the command of an attempt printed",
        path=path,
        lines=lines,
        found=found,
    )


async def diff(request: Request) -> Response:
    """What the work on a task has changed: what its newest landing brings, else what lies in its worktree."""
    loom = loom_of(request)
    found = await loom.get(request.path_params["task_id"])
    landing, trees = found.landing, await Worktrees.of_project(loom.config, to_make=False)
    if landing is not None and landing.base and landing.commit_id:
        text = await trees.brought(landing.base, landing.commit_id)
    else:
        text = await trees.changes(found.task.id, landing.target if landing else "HEAD")
    lines = list(diff_lines(texts.clean(texts.mask(text))))
    return page(request, "text.html", one=found.task, what="What it changes", path="", lines=lines, found=found)


def diff_lines(text: str) -> Iterator[tuple[str, str]]:
    """The lines of a diff, each with what it is: `file`, where one begins, `place`, `add`, `cut-out`, or ""."""
    inside = False  # a hunk, outside of which a plus is no line that was added
    for line in text.rstrip().split("\n"):
        if line.startswith("diff --git "):
            inside = False
            yield "file", line
            continue
        inside = inside or line.startswith("@@")
        yield _LINES.get(line[:1], "") if inside else "", line


_LINES = {"+": "add", "-": "cut-out", "@": "place"}
