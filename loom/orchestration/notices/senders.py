"""The ways to a person: a function for each kind of receiver, each bounded in time and in what it reads back.

Where they lead is the word of the user or of a configuration that he trusts; nothing that an agent or a repository says
comes into it, and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loom import process, texts
from loom.orchestration.notices.news import Bundle

if TYPE_CHECKING:
    from loom.config import ReceiverConfig

LONGEST = 10.0  # seconds for a receiver to take something
_ANSWER_BYTES = 2_000  # of what it says that are enough
_SAID = 200  # characters of that
_PRINTED = 10_000  # bytes of what a command says


class NotTakenError(Exception):
    """A receiver has not taken what it was told; the text says why, in a sentence. `rest`: how many seconds it wants to
    be left alone, where it says so."""

    def __init__(self, why: str, rest: float | None = None) -> None:
        super().__init__(why)
        self.rest = rest


async def send(receiver: ReceiverConfig, bundle: Bundle) -> None:
    """Tells a receiver something. Returns once it has taken it; raises NotTakenError."""
    try:
        async with asyncio.timeout(LONGEST):
            await _WAYS[receiver.kind or ""](receiver, bundle)
    except TimeoutError:
        raise NotTakenError(f"It did not take it within {LONGEST:g} s.") from None


async def _slack(receiver: ReceiverConfig, bundle: Bundle) -> None:
    def plain(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")  # else it could call everybody

    lines = [f"*{plain(bundle.title)}*", plain(bundle.body)]
    lines += [f"<{bundle.url}|Answer it on the board>"] if bundle.url else []
    await _post(receiver.slack, {"text": "\n".join(lines)})


async def _ntfy(receiver: ReceiverConfig, bundle: Bundle) -> None:
    server, _, topic = (receiver.ntfy or "").rstrip("/").rpartition("/")
    message = {"topic": topic, "title": bundle.title, "message": bundle.body or bundle.title}
    headers = {"Authorization": f"Bearer {receiver.token}"} if receiver.token else {}
    await _post(server, message | ({"click": bundle.url} if bundle.url else {}), headers)


async def _webhook(receiver: ReceiverConfig, bundle: Bundle) -> None:
    (one,) = bundle.news
    body = {"type": f"loom.{one.event}", "project": _project(bundle), "data": one.facts(bundle.link(one))}
    text = json.dumps(body, ensure_ascii=False).encode()
    await _post(receiver.webhook, text, signed(receiver.secret, f"{bundle.project_id}/{one.id}", text))


async def _command(receiver: ReceiverConfig, bundle: Bundle) -> None:
    body = {"project": _project(bundle), "news": [one.facts(bundle.link(one)) for one in bundle.news]}
    more = {
        "LOOM_NOTICE_TITLE": bundle.title,
        "LOOM_NOTICE_TEXT": bundle.body,
        "LOOM_NOTICE_URL": bundle.url or "",
    }
    try:
        ended = await process.run(
            receiver.command,
            text=json.dumps(body, ensure_ascii=False),
            env=process.environment(more),
            cwd=Path.home(),  # not among files that agents write
            timeout=LONGEST,
            out_bytes=_PRINTED,
        )
    except TimeoutError:
        raise
    except OSError as error:
        raise NotTakenError(f"It could not be started: {error.strerror}.") from None
    if ended.status or ended.cut:
        said = texts.shorten(texts.said(ended.err.decode(errors="replace")), _SAID)
        raise NotTakenError(f"It ended with status {ended.status}{': ' if said else '.'}{said}")


_WAYS = {"slack": _slack, "ntfy": _ntfy, "webhook": _webhook, "command": _command}


def _project(bundle: Bundle) -> dict[str, str]:
    return {"id": bundle.project_id, "name": bundle.project}


def signed(secret: str | None, message_id: str, body: bytes) -> dict[str, str]:
    """The headers by which who has the secret knows that a body is Loom's and new, as Standard Webhooks has them: HMAC
    with SHA-256 of id, time and body. Without a secret only id and time."""
    at = str(int(time.time()))
    headers = {"webhook-id": message_id, "webhook-timestamp": at}
    if secret is None:
        return headers
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True) if secret.startswith("whsec_") else None
    except binascii.Error:
        key = None
    digest = hmac.digest(key or secret.encode(), b".".join((message_id.encode(), at.encode(), body)), hashlib.sha256)
    return headers | {"webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}


async def _post(url: str | None, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None) -> None:
    """Sends JSON. Raises NotTakenError unless the answer is a success; its text has nothing of the URL but the host."""
    assert url is not None, "it is of that kind"
    httpx = await asyncio.to_thread(_httpx)
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "loom"} | dict(headers or {})
    host = urlsplit(url).hostname
    try:
        async with (
            httpx.AsyncClient(timeout=LONGEST, follow_redirects=False) as client,
            client.stream("POST", url, content=content, headers=headers) as answer,
        ):
            if answer.is_success:
                return
            said = b""
            async for part in answer.aiter_raw():
                if len(said := said + part) >= _ANSWER_BYTES:
                    break
    except httpx.TimeoutException:
        raise TimeoutError from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:  # as of a proxy that cannot be used
        raise NotTakenError(f"{host} cannot be reached ({type(error).__name__}).") from None
    why = texts.shorten(texts.one_line(texts.outward(said.decode(errors="replace"))), _SAID)
    raise NotTakenError(f"{host} answered {answer.status_code}{': ' if why else '.'}{why}", _asked_rest(answer.headers))


def _httpx() -> ModuleType:
    import httpx2  # a fifth of a second, when there is something to say

    return httpx2


def _asked_rest(headers: Mapping[str, str]) -> float | None:
    """How long the other side wants to be left alone, in seconds; None where it does not say."""
    given = headers.get("retry-after", "")
    return float(given) if given.isdecimal() and given.isascii() and len(given) < 6 else None
