"""What a person does on the board: each a plain form that is posted, and a page that is looked at afterwards.

Whoever was too late, or gave something that does not fit, gets a page that says so and changes nothing. What somebody
may do is judged by the front; a page only leaves out what it would refuse.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from urllib.parse import parse_qsl, quote

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from loom import ids
from loom.exceptions import ConflictError, InvalidError, InvalidInputError, LoomError, NotFoundError, TaskStateError
from loom.graph.front import Loom
from loom.skills import decomposer
from loom.web.rendering import loom_of, page
from loom.workflows import runs

_LOG = logging.getLogger(__name__)
_LONGEST = 1_000_000  # bytes of a form
_FIELDS = 1_000
_SEVERAL = 200  # tasks of one form

Form = Mapping[str, str]
Action = Callable[[Loom, str, Form], Awaitable[object]]


async def create(request: Request) -> Response:
    """A new task, or the page to say what it is."""
    if request.method == "GET":
        return page(request, "create.html", section="create", parent=request.query_params.get("parent", ""))
    loom, form = loom_of(request), await read(request)
    made = await loom.create(
        form.get("title", ""),
        done_when=form.get("done_when") or None,
        priority=form.get("priority", "p1"),
        parent_id=form.get("parent") or None,
        depends_on=form.get("depends_on", "").replace(",", " ").split(),
        labels=form.get("labels", "").replace(",", " ").split(),
        context={"brief": brief} if (brief := form.get("brief", "")) else {},
        epic=form.get("epic") == "yes",
    )
    return RedirectResponse(f"{_root(request)}/tasks/{made.id}?said=created", 303)


async def act(request: Request) -> Response:
    """One of the actions on one thing, named in the path, or by the button where a form has several."""
    name, target = request.path_params["action"], request.path_params["target"]
    form = await read(request)
    name = form.get("way", "") if name == "decide" else name
    if name not in ACTIONS:
        raise HTTPException(404)
    loom = loom_of(request)
    await ACTIONS[name](loom, target, form)
    answer = _back(request, form, name)
    if name in ("yes", "resume"):  # its next step may ask a model, which nobody is to wait for before a blank page
        answer.background = BackgroundTask(_carry_on, loom, target)
    return answer


async def several(request: Request) -> Response:
    """One of the actions on several tasks. What it cannot be done with is told; it is done with all others."""
    pairs = await _pairs(request)
    form = dict(pairs)
    chosen, name = [value for key, value in pairs if key == "task"][:_SEVERAL], form.get("action", "")
    if not chosen:
        raise InvalidInputError("No task was chosen.", "Mark some, then say what is to become of them.")
    if name not in FOR_SEVERAL:
        raise InvalidInputError("Nothing was chosen to be done.", "Choose what is to become of the tasks.")
    if name in ("p0", "p1", "p2"):
        name, form["priority"] = "priority", name
    if name == "reassign":
        form["to"] = form.pop("note", "")
    failed = []
    for one in chosen:
        target, _, token = one.partition(" ")
        try:
            await ACTIONS[name](loom_of(request), target, form | {"token": token})
        except (InvalidError, ConflictError, NotFoundError) as error:
            failed.append(f"{target}: {error.cause}")
    if failed:
        done = len(chosen) - len(failed)
        raise TaskStateError(f"It was done with {done} of {len(chosen)}; not with {'; '.join(failed[:5])}")
    return _back(request, form, "several")


def _back(request: Request, form: Form, said: str) -> Response:
    """Back to the page that a form was on, if it is one of the board's, which says what was done."""
    back = form.get("back", "/")
    local = back.startswith("/") and not back.startswith(("//", "/\\"))
    path, _, fragment = (back if local else "/").partition("#")
    mark = "&" if "?" in path else "?"
    return RedirectResponse(
        f"{_root(request)}{path}{mark}said={quote(said)}" + (f"#{fragment}" if fragment else ""), 303
    )


async def read(request: Request) -> dict[str, str]:
    """The fields of a posted form, each once, the last of several; line ends as texts have them."""
    return dict(await _pairs(request))


async def _pairs(request: Request) -> list[tuple[str, str]]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST:
            raise InvalidInputError(f"A form has at most {_LONGEST:,} bytes.", "Say less at once.")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=_FIELDS)
    except ValueError:
        raise InvalidInputError("That is no form of this board.", "Load the page again.") from None
    return [(name, value.replace("\r\n", "\n").strip()) for name, value in pairs]


# --- each action ------------------------------------------------------------------------------------------------------


def _note(form: Form) -> str | None:
    return form.get("note") or None


def _resolving(action: str) -> Action:
    async def resolve(loom: Loom, target: str, form: Form) -> object:
        downstream = form.get("downstream") == "yes"
        return await loom.resolve(
            target, action, note=_note(form), agent_id=form.get("to") or None, downstream=downstream
        )

    return resolve


async def _release(loom: Loom, target: str, form: Form) -> object:
    return await loom.release(target, note=_note(form), token=ids.claim_token(form.get("token", "")))


async def _approve(loom: Loom, target: str, form: Form) -> object:
    return await loom.approve(target)


async def _refuse(loom: Loom, target: str, form: Form) -> object:
    return await loom.refuse(target, note=_note(form))


async def _priority(loom: Loom, target: str, form: Form) -> object:
    return await loom.update(target, priority=form.get("priority", ""))


async def _defer(loom: Loom, target: str, form: Form) -> object:
    return await loom.defer(target, reason=_note(form))


async def _reopen(loom: Loom, target: str, form: Form) -> object:
    return await loom.reopen(target, reason=_note(form))


async def _keep(loom: Loom, target: str, form: Form) -> object:
    return await loom.note(target, form.get("note", ""))


async def _edit(loom: Loom, target: str, form: Form) -> object:
    return await loom.update(target, title=form.get("title"), done_when=form.get("done_when"))


def _confirming(*, yes: bool) -> Action:
    async def confirm(loom: Loom, target: str, form: Form) -> object:
        await loom.permit("workflow.resume")
        question = form.get("question") or None
        return await runs.confirm(loom, target, yes=yes, question=question, note=form.get("note", ""))

    return confirm


async def _resume(loom: Loom, target: str, form: Form) -> object:
    await loom.permit("workflow.resume")
    return await runs.look(loom, target)


async def _carry_on(loom: Loom, run_id: str) -> None:
    """Carries a workflow on behind the answer to whoever said so. What it comes to is on record; what is not brought to
    its next rest is carried on by whoever looks after workflows next."""
    with suppress(ConflictError):  # somebody else carries it on
        try:
            await runs.advance(loom, run_id)
        except LoomError as error:
            _LOG.warning("%s has to wait: %s", run_id, error)


async def _write(loom: Loom, target: str, form: Form) -> object:
    await loom.permit("decompose")
    return await decomposer.confirm(loom, target)


async def _decline(loom: Loom, target: str, form: Form) -> object:
    await loom.permit("decompose")
    await decomposer.refuse(loom, target, note=form.get("note", ""))
    return None


ACTIONS: dict[str, Action] = {
    "answer": _resolving("answer"),
    "retry": _resolving("retry"),
    "reassign": _resolving("reassign"),
    "waive": _resolving("waive"),
    "cancel": _resolving("cancel"),
    "release": _release,
    "approve": _approve,
    "refuse": _refuse,
    "priority": _priority,
    "defer": _defer,
    "edit": _edit,
    "note": _keep,
    "reopen": _reopen,
    "yes": _confirming(yes=True),
    "no": _confirming(yes=False),
    "resume": _resume,
    "write": _write,
    "decline": _decline,
}
"""Each action by the name that its form posts to."""

FOR_SEVERAL: Mapping[str, str] = {
    "p0": "update.anything",
    "p1": "update.anything",
    "p2": "update.anything",
    "note": "note",
    "defer": "defer",
    "answer": "resolve.answer",
    "retry": "resolve.retry",
    "reassign": "resolve.reassign",
    "waive": "resolve.waive",
    "cancel": "cancel",
    "release": "release",
    "approve": "approve",
    "refuse": "refuse",
    "reopen": "reopen",
}
"""What can be done with several tasks at once, and what one has to be allowed for it."""

ROUTES = (
    Route("/new", create, methods=["GET", "POST"]),
    Route("/do/{action}/{target}", act, methods=["POST"]),
    Route("/several", several, methods=["POST"]),
)


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))
