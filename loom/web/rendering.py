"""How a page is made: templates, what they may say of a value, and what every page has.

Whatever comes out of a template is escaped, and freed of what a reader cannot see; texts that others wrote are data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import urlencode

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from loom import texts
from loom.bundled import bundled
from loom.graph.front import Loom
from loom.web.wording import SAID, SIGNS, WAYS, typed

STATIC = bundled("web/static")
"""What pages load, by its name."""

_TEMPLATES = {name: text.decode() for name, text in bundled("web/templates").items()}
_REFUSED = Markup(" ").join(
    Markup('hx-status:{}xx="select:#said target:#said swap:outerHTML push:false"').format(kind) for kind in (4, 5)
)
"""What an element says that asks: of a refusal only the sentence is put onto the page, on which all else stays."""


def page(request: Request, template: str, *, code: int = 200, **values: Any) -> HTMLResponse:
    """One page."""
    loom = loom_of(request)
    shown = (
        _templates()
        .get_template(template)
        .render(
            request=request,
            root=request.scope.get("root_path", ""),
            project=loom.config.project_name,
            agent=loom.agent,
            may=loom.may,
            owns=loom.principal.owns if loom.principal else _anybody,
            here=here(request),
            **{"section": "", "since": None, "typed": {}, "error": None} | values,
        )
    )
    return HTMLResponse(shown, code)


def here(request: Request) -> str:
    """The address of this page, below where the board is mounted, without what was said on it."""
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    asked = [(name, value) for name, value in request.query_params.multi_items() if name != "said"]
    return f"{path}?{urlencode(asked)}" if asked else path


def loom_of(request: Request) -> Loom:
    """The front that this request was let in with."""
    loom: Loom = request.state.loom
    return loom


# --- how --------------------------------------------------------------------------------------------------------------


@cache
def _templates() -> Environment:
    made = Environment(
        loader=DictLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=_shown,
    )
    made.filters.update(
        ago=_ago, moment=_moment, code=_code, many=_many, short=_short, pretty=_pretty, seconds=_seconds,
        past=_past, used=_used, changes=_changes,
    )  # fmt: skip
    made.globals.update(sign=_sign, static=_static, named=SIGNS, said=SAID, ways=WAYS, refused=_REFUSED)
    made.tests.update(text=lambda value: isinstance(value, str), texts=_are_texts, waves=_are_waves)
    return made


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _are_waves(value: object) -> bool:
    """Whether this is what a plan's preview has as its waves; a workflow may show whatever else."""
    kinds = {"wave": int, "count": int, "tasks": list}
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(one, dict) and all(isinstance(one.get(name), kind) for name, kind in kinds.items())
            for one in value
        )
    )


def _anybody(agent: str) -> bool:
    """Whoever is no principal may speak for every agent."""
    return True


def _shown(value: Any) -> Any:
    """What a template puts out: texts without what cannot be seen."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else texts.clean(value)


def _many(number: int) -> str:
    """A number as people read a large one."""
    return f"{number:,}"


def _code(text: object) -> Markup:
    """A sentence with what somebody is to type as such."""
    return typed(texts.clean(str(text)))


def _ago(moment: datetime) -> Markup:
    """How long ago a moment was, which the page keeps up to date; the moment itself where the pointer rests."""
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.astimezone(UTC).isoformat(timespec="seconds"), _moment(moment), span(datetime.now(UTC) - moment)
    )


def span(length: timedelta) -> str:
    """A length of time in the largest unit that fits."""
    seconds = abs(int(length.total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _seconds(seconds: float) -> str:
    """A length of time, exact while it is short."""
    return f"{seconds:.1f} s" if seconds < 10 else span(timedelta(seconds=seconds))


def _used(used: Mapping[str, Any]) -> str:
    """What an attempt has used, as far as it is told."""
    tokens = {"input_tokens": "in", "output_tokens": "out"}
    told = [f"{used[name]:,} tokens {word}" for name, word in tokens.items() if isinstance(used.get(name), int)]
    if isinstance(cost := used.get("cost_usd"), int | float):
        told.append(f"${cost:,.2f}")
    return " · ".join([*told, *([str(used["model"])] if used.get("model") else [])])


def _changes(data: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The fields that an event says were changed, and how."""
    found = []
    for name, change in (data or {}).items():
        if isinstance(change, Mapping):
            parts = [f"{word} {', '.join(map(str, change[word]))}" for word in ("added", "removed") if change.get(word)]
            if "from" in change or "to" in change:
                parts.append(" → ".join(_short(str(change.get(side) or "nothing")) for side in ("from", "to")))
            found += [(name, "; ".join(parts))] if parts else []
    return found


def _past(moment: datetime) -> bool:
    return moment < datetime.now(UTC)


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _short(text: str, most: int = 200) -> str:
    return texts.shorten(texts.one_line(text), most)


def _pretty(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _sign(name: str, word: str = "") -> Markup:
    """A state as its sign, for the eye, and its word for the ear."""
    return Markup('<svg class="sign {0}" role="img" aria-label="{1}"><use href="#sign-{0}"/></svg>').format(
        name, word or SIGNS[name]
    )


@cache
def _static(name: str) -> str:
    """The address of a static file, which changes with what is in it."""
    digest = hashlib.sha256(STATIC[name]).hexdigest()
    return f"/static/{name}?{digest[:12]}"
