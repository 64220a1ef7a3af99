"""Attacks on the listener: each ends in the right refusal, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sse_starlette.sse import AppStatus
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from loom.config import LoomConfig
from loom.db.connection import Pool
from loom.exceptions import ConfigError
from loom.graph.front import Loom
from loom.hub import connections, guard, listener, team
from loom.hub.guard import PROBES, Addresses
from loom.hub.listener import Place, application, refuse_open
from loom.hub.projects import Projects
from loom.remote import codec
from loom.web import rendering
from loom.workflows import runs
from tests.graph.conftest import Rival, until_waiting
from tests.graph.conftest import rival as rival
from tests.remote.conftest import PATIENCE, Serve, Served, certified, serving
from tests.workflows.conftest import begun

Clock = Callable[[float], Awaitable[None]]


async def status(
    served: Served, token: str | None, method: str = "POST", path: str = "/api/status", **headers: str
) -> int:
    async with served.http(token, **headers) as client:
        answer = await client.request(method, path, json={} if method == "POST" else None)
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error["code"]
        assert error["cause"]
        assert answer.headers["connection"] == "close" or answer.status_code in (404, 422)
    return answer.status_code


# --- who comes in ---------------------------------------------------------------------------------------------------


def paths(routes: list[BaseRoute], before: str = "") -> Iterator[str]:
    for one in routes:
        if isinstance(one, Mount):
            yield from paths(list(one.routes or []), before + one.path)
            yield f"{before}{one.path}/anything"
        elif isinstance(one, Route):
            yield before + re.sub(r"\{[^}]*\}", "x", one.path)


async def test_no_route_is_open(served: Served, config: LoomConfig) -> None:
    inner = application(Projects(), config, Addresses.of("127.0.0.1", 1, None))._app
    assert isinstance(inner, Starlette)
    found = set(paths(inner.routes))
    assert {"/mcp", "/metrics", "/api", "/api/x", "/", "/events", "/static/x"} <= found
    async with served.http() as client:
        for path in sorted(found | {"/nothing", "//api", "/api/../api/status"}):
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
                answer = await client.request(method, path)
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"].startswith("Bearer")
        for path in sorted(PROBES):
            answer = await client.get(path)
            assert (answer.status_code, answer.content) == (200, b"")


async def test_metrics_are_read_with_a_token(served: Served) -> None:
    await served.loom.create("a task")
    async with served.http(await served.token("prometheus", "reader")) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "loom_tasks{" in answer.text


async def test_who_shows_no_token_that_holds_is_not_let_in(served: Served, clock: Clock, pool: Pool) -> None:
    good = await served.token("ann", "reader")
    over = (await served.loom.add_token("old", "admin", seconds=60)).secret
    gone = await served.token("gone", "admin")
    assert await status(served, good) == 200
    await clock(61)
    await served.loom.revoke_tokens("gone")
    for wrong in (over, gone, good[:-1] + "x", f"loom_{'0' * 12}_{'x' * 43}", "x", "'; drop table access_tokens"):
        assert await status(served, wrong) == 401
    assert await status(served, None, authorization=f"Basic {good}") == 401
    assert await status(served, None) == 401


async def test_the_token_of_another_project_is_none_here(served: Served, pool: Pool) -> None:
    other = await pool.fetchval("insert into projects (id, name) values (gen_random_uuid(), 'yard') returning id::text")
    async with Loom(LoomConfig(**{**vars(served.config), "project_id": other})) as yard:
        stranger = (await yard.add_token("ann", "admin")).secret
    for path in ("/api", "/mcp", "/metrics", "/"):
        assert await status(served, stranger, "GET", path) == 401, path


async def cut_off(secret: str, revoke: Callable[[], Awaitable[Any]], *replicas: Served) -> None:
    """Has a token revoked while long answers go on, and waits until they are cut off."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(each.http(secret)) for each in replicas]
        waiting = [asyncio.create_task(client.post("/api/wait", json={"timeout": 60})) for client in clients]
        await asyncio.sleep(1)
        assert not any(one.done() for one in waiting)
        await revoke()
        async with asyncio.timeout(PATIENCE):
            assert [(await one).status_code for one in waiting] == [401] * len(waiting)


async def test_what_is_revoked_is_over_on_all_replicas_also_what_goes_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_LOOK_AGAIN", 3600.0)
    one, two = await serve(), await serve()
    secret = await one.token("ann", "reader")
    await cut_off(secret, lambda: one.loom.revoke_tokens("ann"), one, two)
    assert [await status(each, secret) for each in (one, two)] == [401, 401]


async def test_what_goes_on_is_cut_off_soon_where_nobody_tells_of_a_revocation(
    serve: Serve, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_LOOK_AGAIN", 0.2)
    served = await serve()
    secret = await served.token("ann", "reader")
    await cut_off(secret, lambda: pool.execute("update access_tokens set revoked_at = loom_now()"), served)


async def test_a_body_that_is_long_on_its_way_comes_too_late_for_a_revoked_token(served: Served) -> None:
    token = await served.token("ann", "planner")
    host, _, port = served.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"title": "x"}'
    writer.write(head(served, token, f"Content-Length: {len(body)}", path="/api/create") + body[:5])
    await asyncio.sleep(0.5)
    await served.loom.revoke_tokens("ann")
    await asyncio.sleep(0.5)
    writer.write(body[5:])
    async with asyncio.timeout(PATIENCE):
        assert b" 401 " in await reader.readline()
    writer.close()
    assert (await served.loom.ready()).tasks == []


async def test_however_many_ask_whether_a_server_is_ready_the_database_is_asked_once_a_second(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, since = 0, Loom.since

    async def counted(loom: Loom, *arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return await since(loom, *arguments)

    monkeypatch.setattr(Loom, "since", counted)
    monkeypatch.setattr(team, "_READY_EVERY", 3600.0)
    async with served.http() as client:
        for _ in range(3):
            answers = await asyncio.gather(*(client.get("/readyz") for _ in range(20)))
            assert {one.status_code for one in answers} == {200}
    assert looks == 1


@pytest.mark.parametrize("role", ["reader", "worker", "planner"])
async def test_a_role_is_not_enough_over_http_either(served: Served, role: str) -> None:
    token = await served.token(role, role)
    for operation, body in (("cancel", {"task_id": "loom-00000000"}), ("add_token", {"name": "me", "role": "admin"})):
        async with served.http(token) as client:
            answer = await client.post(f"/api/{operation}", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    for inner in ("transact", "look", "_commit", "permit", "close", "admitted", "beside", "__class__"):
        async with served.http(token) as client:
            assert (await client.post(f"/api/{inner}", json={})).status_code == 404
    assert [one.name for one in await served.loom.tokens()] == [role]


# --- where from -----------------------------------------------------------------------------------------------------


async def test_a_foreign_host_or_origin_is_refused(serve: Serve) -> None:
    served = await serve(public_url="https://loom.example.org")
    token, port = await served.token(), served.url.rpartition(":")[2]
    for host in (
        "evil.example.org",
        f"evil.example.org:{port}",
        "127.0.0.1.evil.org",
        f"127.0.0.1:{port}.evil.org",
        "",
    ):
        assert await status(served, token, host=host) == 421, host
        assert await status(served, None, "GET", "/enter?code=x", host=host) == 421, host
    for host in (f"localhost:{port}", "loom.example.org", "loom.example.org:443", "LOOM.example.org"):
        assert await status(served, token, host=host) == 200, host
    for origin in ("https://evil.example.org", "null", "http://loom.example.org", "https://loom.example.org.evil.org"):
        assert await status(served, token, origin=origin) == 403, origin
        assert await status(served, token, "POST", "/mcp", origin=origin) == 403, origin
    for origin in ("https://loom.example.org", served.url):
        assert await status(served, token, origin=origin) == 200, origin


async def test_a_token_in_a_url_is_refused(served: Served) -> None:
    token = await served.token()
    for path in (f"/api?token={token}", f"/mcp?access_token={token}", f"/api/{token}", f"/tasks/x?x={token}"):
        assert await status(served, token, "GET", path) == 400, path
    for path in ("/api?token=x", "/mcp?a=1&access_token=x"):  # whatever it looks like
        assert await status(served, token, "GET", path) == 400, path


def test_no_address_on_the_board_is_taken_for_one_with_a_token() -> None:
    addresses = [
        one for text in rendering._TEMPLATES.values() for one in re.findall(r'(?:href|action)="([^"]*)"', text)
    ]
    assert any("log?" in one for one in addresses)
    assert not [one for one in addresses if guard._TOKEN.search(one.partition("?")[2].encode())]


# --- how much -------------------------------------------------------------------------------------------------------


async def raw(served: Served, data: bytes) -> bytes:
    """What a server says to bytes, until it ends the connection; raises TimeoutError if it does not."""
    host, _, port = served.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    heard = b""
    with suppress(ConnectionError):
        writer.write(data)
        async with asyncio.timeout(PATIENCE):
            while more := await reader.read(65536):
                heard += more
    writer.close()
    return heard


def head(served: Served, token: str, *more: str, path: str = "/api/status") -> bytes:
    host = served.url.removeprefix("http://")
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {token}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def test_a_huge_body_is_refused_before_it_is_read(served: Served) -> None:
    token = await served.token()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert b" 413 " in await raw(served, head(served, token, "Content-Length: 1000000000") + b"x" * 1_000_000)
    chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    assert b" 413 " in await raw(served, head(served, token, "Transfer-Encoding: chunked") + chunk * 40)
    assert b" 401 " in await raw(served, head(served, "x", "Content-Length: 1000000000") + b"x" * 1_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000, "kB"
    assert await status(served, token) == 200


async def test_what_all_bring_together_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_BODIES_BYTES", 100_000)
    token = await served.token()
    assert b" 503 " in await raw(served, head(served, token, "Content-Length: 200000") + b"x" * 200_000)
    for _ in range(3):
        assert await status(served, token) == 200, "nothing of it is still counted"
    async with served.http(token) as client:
        for _ in range(3):
            answer = await client.post("/api/status", content=b"{}" + b" " * 60_000)
            assert answer.status_code == 200, "nor of what was answered"
        with monkeypatch.context() as patch:
            patch.setattr(guard, "_BODY_WITHIN", 0.5)
            assert b" 408 " in await raw(served, head(served, token, "Content-Length: 70000") + b" " * 60_000)
        answer = await client.post("/api/status", content=b"{}" + b" " * 60_000)
        assert answer.status_code == 200, "nor of what did not come in time"


async def test_header_bombs_are_refused(served: Served) -> None:
    token = await served.token()
    many = [f"X-{n}: {'x' * 200}" for n in range(1000)]
    for bomb in (many, [f"X-Large: {'x' * 200_000}"]):
        answer = await raw(served, head(served, token, *bomb))
        assert b" 200 " not in answer
    assert b" 200 " not in await raw(served, b"POST /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n")
    assert await status(served, token) == 200


async def test_a_slow_client_is_let_go(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_HEAD_WITHIN", 0.5)
    monkeypatch.setattr(guard, "_BODY_WITHIN", 0.5)
    token = await served.token()
    assert await raw(served, b"") == b""
    assert await raw(served, b"POST /api/status HTTP/1.1\r\nHost: ") == b""
    assert b" 408 " in await raw(served, head(served, token, "Content-Length: 10") + b"{")
    # One that sends its head bit by bit has no more time for it.
    host, _, port = served.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def trickle() -> None:
        for byte in head(served, token) * 10:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    sending = asyncio.create_task(trickle())
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    assert not sending.done(), "it had more to say"
    sending.cancel()
    writer.close()
    # Nor has one whose request before was answered.
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head(served, token, "Content-Length: 2") + b"{}")
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.2)
    writer.write(b"POST ")
    with suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()


async def test_who_begins_no_tls_is_let_go(config: LoomConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before it has come about, a connection is none of the server's yet, and counts nowhere."""
    monkeypatch.setattr(connections, "_HEAD_WITHIN", 0.5)
    certificate, key = certified(tmp_path)
    async with serving(config, certificate=certificate, key=key) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()


@pytest.mark.parametrize("parts", [1, 2_000])
async def test_a_client_that_does_not_take_its_answer_is_given_up(
    config: LoomConfig, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """Also where the last of it lies here, and would be sent before the connection is closed."""
    monkeypatch.setattr(connections, "_TAKEN_WITHIN", 0.5)
    answering = asyncio.Queue[Any]()

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope["state"]["cut"].__self__
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        answering.put_nowait(transport.get_protocol())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        for left in reversed(range(parts)):
            await send({"type": "http.response.body", "body": b"x" * 40_000, "more_body": left > 0})

    async with serving(config, before=lambda app: _before(app, large)) as port:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            connection = await answering.get()
            while connection in connection.connections:  # noqa: ASYNC110 - uvicorn says it no other way
                await asyncio.sleep(0.05)
        client.close()


def _before(app: ASGIApp, instead: ASGIApp) -> ASGIApp:
    """Something that answers requests in the place of an application, which begins and ends as it would."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope["type"] == "lifespan" else instead)(scope, receive, send)

    return answer


def of_connections(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about connections."""
    return [one.getMessage() for one in caplog.records if one.name.startswith(("uvicorn", "asyncio"))]


BROKEN_OFF = (httpx2.ReadError, httpx2.RemoteProtocolError)


async def to_the_end(lines: AsyncIterator[str]) -> None:
    async with asyncio.timeout(PATIENCE):
        async for _ in lines:
            pass


async def test_a_stream_under_which_a_token_is_revoked_ends_without_a_word_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async with served.http(await served.token("ann", "reader")) as client, client.stream("GET", "/live") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines)
        await served.loom.revoke_tokens("ann")
        with pytest.raises(BROKEN_OFF):
            await to_the_end(lines)
    assert not of_connections(caplog)


async def test_an_answer_that_a_server_ends_over_is_broken_off_without_a_fault(
    loom: Loom, config: LoomConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(AppStatus, "enable_automatic_graceful_drain", False)  # so that a stream does not end before
    monkeypatch.setattr(listener, "_ENDS_WITHIN", 0.1)
    async with AsyncExitStack() as stack:
        async with serving(config) as port:
            served = Served(f"http://127.0.0.1:{port}", loom, config)
            client = await stack.enter_async_context(served.http(await served.token("ann", "reader")))
            answer = await stack.enter_async_context(client.stream("GET", "/live"))
            lines = answer.aiter_lines()
            assert await anext(lines)
        with pytest.raises(BROKEN_OFF):
            await to_the_end(lines)
    assert not of_connections(caplog)


async def test_what_strangers_send_leaves_nothing_in_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    host = served.url.removeprefix("http://")
    await raw(served, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n")
    upgrade = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert b" 401 " in await raw(served, upgrade.encode())
    # What is no chunk, once the request was answered.
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"GET /livez HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"no chunk\r\n" * 10)
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()
    assert not of_connections(caplog)


async def test_open_connections_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_CONNECTIONS", 20)
    token = await served.token()
    host, _, port = served.url.removeprefix("http://").partition(":")
    opened = [socket.create_connection((host, int(port))) for _ in range(20)]
    try:
        await asyncio.sleep(0.2)
        assert await raw(served, head(served, token, "Content-Length: 2") + b"{}") == b""
    finally:
        for one in opened:
            one.close()
    await asyncio.sleep(0.2)
    assert await status(served, token) == 200


async def test_requests_of_one_token_are_bounded(
    served: Served, pool: Pool, rival: Rival, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_AT_ONCE", 2)
    token = await served.token()
    await rival.execute("lock table tasks in share mode")  # claims wait for it
    async with served.http(token) as client:
        going = [asyncio.create_task(client.post("/api/claim", json={})) for _ in range(2)]
        await until_waiting(pool, 2)
        assert await status(served, token) == 429
        assert await status(served, await served.token("bob", "reader")) == 200
        await rival.commit()
        await asyncio.gather(*going)
    assert await status(served, token) == 200


async def test_whoever_calls_has_nothing_of_the_servers_variables(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await served.loom.create("a task")
    await served.loom.done(made.id)
    token = await served.token("ann", "admin")
    monkeypatch.setenv("LOOM_RUN", "a.1.")  # as of a server that somebody has started from within a run
    async with served.http(token) as client:
        answer = await client.post("/api/reopen", json={"task_id": made.id})
    assert answer.status_code == 200, answer.text


async def test_who_hangs_up_has_called_off_what_he_asked_for(
    served: Served, rival: Rival, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_AT_ONCE", 1)
    made = await served.loom.create("a task")
    await rival.execute("lock table tasks in share mode")  # a claim waits for it
    token = await served.token()
    async with served.http(token) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post("/api/claim", json={}, timeout=2)
    await rival.commit()
    async with asyncio.timeout(PATIENCE):
        while await status(served, token) == 429:  # noqa: ASYNC110 - only its answers say so
            await asyncio.sleep(0.1)
    task = (await served.loom.get(made.id)).task
    assert (task.status, task.attempt) == ("pending", 0)


async def test_what_goes_on_behind_an_answer_is_not_called_off_with_it(served: Served) -> None:
    run = await begun(served.loom, "- {id: sure, type: confirm, message: Go on?}\n- {id: rest, type: wait, seconds: 0}")
    async with served.http(await served.token("ann", "planner")) as client:
        said = await client.post(f"/do/decide/{run.id}", data={"way": "yes", "step": "sure"})
        assert said.status_code == 303, said.text
    async with asyncio.timeout(PATIENCE):
        while (await runs.look(served.loom, run.id))[0].status != "done":  # noqa: ASYNC110 - only a look says so
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("body", "code", "number"),
    [
        ('{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"a": "\\ud83e"}}', -32700, 7),
        ('{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": ' + "[" * 300 + "]" * 300 + "}", -32700, 7),
        ('{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": [1]}', -32600, 7),
        ('{"jsonrpc": "2.0", "id": {}, "method": "ping"}', -32600, None),
        ('[{"jsonrpc": "2.0", "id": 7, "method": "ping"}]', -32600, None),
        ("null", -32600, None),
    ],
)
async def test_who_sends_what_is_no_message_is_answered_under_its_id(
    served: Served, body: str, code: int, number: int | None
) -> None:
    async with served.http(await served.token(), accept="application/json") as client:
        answer = await client.post("/mcp", content=body, headers={"content-type": "application/json"})
    told = answer.json()
    assert (answer.status_code, told["error"]["code"], told["id"]) == (400, code, number)
    assert "validation error" not in told["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b'{"a": "\\ud800"}', b"[" * 100_000, b'{"limit": "x"}', b'{"no": 1}']
)
async def test_what_is_no_call_is_told_in_a_sentence(served: Served, body: bytes) -> None:
    async with served.http(await served.token()) as client:
        answer = await client.post("/api/ready", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
    assert "Traceback" not in json.dumps(answer.json())


_ODD: tuple[Any, ...] = (
    "nul\0", "\ud83e", "x" * 2_000, 2**63, 1e308, float("nan"), ["a\0b"], {"a": 2**70}, {"words": "\0"},
    {"failed": 2**40}, {"states": ["none"]}, True,
)  # fmt: skip


@pytest.mark.parametrize("operation", sorted(codec.OPERATIONS))
async def test_whatever_is_given_to_an_operation_is_answered_in_a_sentence(served: Served, operation: str) -> None:
    """Each argument in turn has something odd in it, and the others what they need."""
    task = await served.loom.create("a task")
    takes = codec._shape(operation).takes
    usual = {"task_id": task.id, "which": "nobody", "name": "ada", "role": "worker", "what": "ready", "timeout": 0.1}
    needed = {name: usual.get(name, "x") for name in takes if name in usual}
    async with served.http(await served.token("root", "admin")) as client:
        for name, value in ((name, value) for name in takes for value in _ODD):
            body = json.dumps(needed | {name: value})
            answer = await client.post(f"/api/{operation}", content=body)
            assert answer.status_code in (200, 403, 404, 409, 422), (name, value, answer.text)


def _batch(**draft: Any) -> dict[str, Any]:
    return {"batch": {"format": "plan", "drafts": [{"key": "a", "title": "A", **draft}]}}


@pytest.mark.parametrize(
    "draft",
    [
        {"title": "two\nlines"}, {"title": "x" * 501}, {"context": {"a": "x" * 300_000}}, {"output": {"a": "\0"}},
        {"done_when": "x" * 9_000}, {"files": ["../out"]}, {"checks": ["a b"]}, {"labels": ["No Label!"]},
        {"depends_on": ["x"] * 1_001}, {"key": "k" * 201}, {"origin_id": "a\x1b"}, {"deferred": ""},
        {"created_at": "2026-01-01T00:00:00"},
    ],
    ids=lambda draft: next(iter(draft)),
)  # fmt: skip
async def test_what_an_import_brings_from_afar_is_held_to_the_limits(served: Served, draft: dict[str, Any]) -> None:
    """Whoever reads a file makes its values fit; who sends them need not have read one."""
    async with served.http(await served.token("ann", "planner")) as client:
        assert (await client.post("/api/import_tasks", json=_batch())).status_code == 200
        answer = await client.post("/api/import_tasks", json=_batch(**draft))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
    assert len((await served.loom.find("")).tasks) == 1


# --- where it may be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "loom.example.org"])
def test_tokens_do_not_travel_in_the_clear(host: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="in the clear"):
        refuse_open(Place(host, 80))
    refuse_open(Place(host, 80, behind_proxy=True))
    refuse_open(Place(host, 80, certificate=tmp_path, key=tmp_path))
    for own in ("127.0.0.1", "localhost", "::1"):
        refuse_open(Place(own, 80))


# --- the board ------------------------------------------------------------------------------------------------------


async def test_a_page_that_is_kept_open_renews_nobodys_claims(served: Served, clock: Clock) -> None:
    await served.loom.create("a task")
    token = await served.token("ann", "planner")
    async with served.http(token) as client:
        held = (await client.post("/api/claim", json={"lease_seconds": 600})).json()["task"]
        await clock(400)
        code = await served.loom.entry_code((await served.loom.tokens())[0])
    async with served.http() as browser:
        await browser.get("/enter", params={"code": code})
        assert "ann/board" in (await browser.get("/")).text
        until = (await served.loom.get(held["id"])).task.lease_expires_at
        assert until is not None
        assert until.isoformat() == datetime.fromisoformat(held["lease_expires_at"]).isoformat()
        form = {"token": str(held["claim_token"])}
        released = await browser.post(f"/do/release/{held['id']}", data=form, headers={"origin": served.url})
        assert released.status_code == 303, "what is his agents' he may give back there"
    async with served.http(token) as client:
        await client.post("/api/claim", json={"lease_seconds": 600})
        await clock(400)
        await client.post("/api/ready", json={})
        later = (await served.loom.get(held["id"])).task.lease_expires_at
        assert later is not None
        assert later > until + timedelta(seconds=600), "as what an agent asks does"


async def test_a_browser_is_let_in_by_a_code_for_one_use(served: Served) -> None:
    token = await served.token("ann", "planner")
    async with served.http(token) as client:
        code = (await client.post("/api/enter")).json()["code"]
        assert token not in code
    async with served.http() as browser:
        assert (await browser.get("/")).status_code == 401
        for path, words in (("/", "Run <code>loom board</code>"), ("/enter?code=no", "This link was used already")):
            outside = await browser.get(path, headers={"accept": "text/html"})
            assert (outside.status_code, outside.headers["content-type"]) == (401, "text/html; charset=utf-8")
            assert words in outside.text, "a person is told on a page"
        elsewhere = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        assert "http-equiv=refresh" in (await browser.get("/", headers=elsewhere)).text, "a cookie may come with it"
        entered = await browser.get("/enter", params={"code": code})
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        assert "HttpOnly" in entered.headers["set-cookie"]
        assert "strict" in entered.headers["set-cookie"].lower()
        assert (await browser.get("/")).status_code == 200
        assert (await browser.post("/api/create", json={"title": "x"})).status_code == 403, "no page of the board's"
        made = await browser.post("/api/create", json={"title": "x"}, headers={"origin": served.url})
        assert made.status_code == 200
        assert (await browser.get("/enter", params={"code": code})).status_code == 401
        await served.loom.revoke_tokens("ann")
        assert (await browser.get("/")).status_code == 401


async def test_a_browser_is_let_in_by_every_replica(serve: Serve) -> None:
    url = "https://loom.example.org"
    replicas = [await serve(public_url=url) for _ in range(2)]
    one, two = replicas
    async with one.http(await one.token("ann", "planner")) as client:
        code = (await client.post("/api/enter")).json()["code"]
    async with one.http(host="loom.example.org") as here, two.http(host="loom.example.org") as there:
        entered = await asyncio.gather(*(each.get("/enter", params={"code": code}) for each in (here, there)))
        assert sorted(answer.status_code for answer in entered) == [303, 401], "for one use, wherever it is used"
        (cookie,) = [answer.cookies["loom"] for answer in entered if answer.status_code == 303]
        assert any("; secure" in answer.headers.get("set-cookie", "").lower() for answer in entered), "it is reached so"
        headers = {"cookie": f"loom={cookie}", "origin": url}
        for each in (here, there):
            assert (await each.get("/", headers=headers)).status_code == 200
            assert (await each.post("/api/create", json={"title": "x"}, headers=headers)).status_code == 200
        await one.loom.revoke_tokens("ann")
        for each in (here, there):
            assert (await each.get("/", headers=headers)).status_code == 401
