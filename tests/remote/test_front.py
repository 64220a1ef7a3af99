"""A project from afar: the same commands, answered the same, and patience while the server is away."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from loom.config import LoomConfig, ServerConfig
from loom.exceptions import (
    ClaimConflictError,
    ConfigError,
    ForbiddenError,
    LoomError,
    NotFromAfarError,
    ServersError,
    TaskNotFoundError,
    TokenError,
)
from loom.graph.front import Loom
from loom.graph.model.task import TaskStatus
from loom.orchestration.workers.worker import Workers, command_line
from loom.remote import client, codec, credentials
from loom.remote.front import Remote
from tests.cli.conftest import Cli, Result, bare
from tests.remote.conftest import Served, serving

__all__ = ["bare"]


class Two:
    """The same project, once with its database and once behind its server."""

    def __init__(self, local: Cli, remote: Cli) -> None:
        self.local, self.remote = local, remote

    async def both(self, *words: str, stdin: str = "") -> tuple[Result, Result]:
        """A command in both."""
        here = await asyncio.to_thread(self.local.inside, *words, stdin=stdin)
        there = await asyncio.to_thread(self.remote.inside, *words, stdin=stdin)
        return here, there

    async def afar(self, *words: str, **env: str) -> dict[str, Any]:
        return await asyncio.to_thread(lambda: self.remote.ok(*words, **env))


@pytest.fixture
async def two(served: Served, bare: Cli, config: LoomConfig, tmp_path: Path) -> Two:
    afar = tmp_path / "afar"
    afar.mkdir()
    token = await served.token("tester", "admin")
    remote = Cli(afar, bare.env | {"LOOM_SERVER_URL": served.url, "LOOM_TOKEN": token})
    (bare.directory / ".loom").mkdir()
    (bare.directory / ".loom" / "config.yaml").write_text(f"project_name: test\nproject_id: {config.project_id}\n")
    assert config.database.url
    assert config.redis.url
    more = {"LOOM_DATABASE_URL": config.database.url, "LOOM_REDIS_URL": config.redis.url, "LOOM_AGENT_ID": "tester"}
    return Two(Cli(bare.directory, bare.env | more), remote)


def shape(value: Any) -> Any:
    """The keys and types of an answer."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    return [shape(one) for one in value[:1]] if isinstance(value, list) else type(value).__name__


def timeless(value: Any) -> Any:
    """An answer without what the time of day makes of it."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in ("age", "silent", "since", "seconds")}
    return [timeless(one) for one in value] if isinstance(value, list) else value


# --- the commands ---------------------------------------------------------------------------------------------------


async def test_what_is_looked_at_is_the_same_from_afar(two: Two, loom: Loom) -> None:
    epic = await loom.create("an epic", epic=True, labels=["ui"])
    first = await loom.create("first", parent_id=epic.id, context={"a": [1, {"b": "ü"}]}, files=["a.py"])
    second = await loom.create("second", depends_on=[first.id], done_when="it holds")
    dead, asked = await loom.create("dead"), await loom.create("asked")
    await loom.claim(first.id)
    await loom.fail(dead.id, "no", retry=False)
    await loom.escalate(asked.id, "which one?")
    await loom.send("tester", "hello")
    looks = [
        ["status"],
        ["status", first.id],
        ["show", second.id, dead.id],
        ["ready"],
        ["list"],
        ["list", "label:ui"],
        ["search", "second"],
        ["history", first.id[:9]],
        ["graph"],
        ["graph", "--format", "json"],
        ["inbox"],
        ["dead-letter", "list"],
        ["export"],
        ["project", "list"],
        ["watch", "--since", "1h", "--no-follow", "--limit", "3"],
    ]
    for words in looks:
        here, there = await two.both(*words, "--json")
        assert (there.code, there.err) == (here.code, here.err), words
        lines = [
            [timeless(json.loads(one)) for one in out.splitlines()]
            for out in (here.out, there.out)
            if words[0] == "watch"
        ]
        if lines:
            assert lines[0] == lines[1]
        else:
            assert timeless(json.loads(there.out)) == timeless(json.loads(here.out)), words
    for words in (["status"], ["show", second.id], ["list"]):
        here, there = await two.both(*words)
        spoken = [re.sub(r"\b\d+s\b", "1s", one.out) for one in (here, there)]
        assert (spoken[1], there.code) == (spoken[0], 0)


async def test_what_is_done_is_told_the_same_from_afar(two: Two, loom: Loom) -> None:
    async def told(*words: str, code: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
        answers = []
        for cli in (two.local, two.remote):
            named = [known[id(cli)].get(word, word) for word in words]
            result = await asyncio.to_thread(cli.inside, *named, "--json")
            assert result.code == code, (words, result.out, result.err)
            answers.append(result.json)
        assert shape(answers[0]) == shape(answers[1]), words
        return answers[0], answers[1]

    known: dict[int, dict[str, str]] = {id(two.local): {}, id(two.remote): {}}

    async def create(name: str, *more: str) -> None:
        for cli, one in zip((two.local, two.remote), await told("create", name, *more), strict=True):
            known[id(cli)][name] = one["id"]

    await create("EPIC", "--epic")
    await create("ONE", "--parent", "EPIC", "--context", '{"a": 1}')
    await create("TWO", "--depends-on", "ONE")
    await told("claim", "ONE")
    await told("claim", "ONE", code=3)
    await told("heartbeat", "ONE")
    await told("update", "ONE", "--files", "a.py", "--label", "ui")
    await told("release", "ONE", "--note", "later")
    await told("claim", "ONE")
    await told("done", "ONE", "--output", '{"made": "a.py"}')
    await told("done", "ONE", code=1)
    await told("escalate", "TWO", "which?")
    await told("resolve", "TWO", "answer", "--note", "this one")
    await told("fail", "TWO", "--reason", "no")
    await told("resolve", "TWO", "retry")
    await told("cancel", "TWO", "--reason", "enough")
    await create("THREE")
    await told("defer", "THREE")
    await told("resolve", "THREE", "retry")
    await told("message", "tester", "hello")
    await told("wait", "--task", "THREE", "--timeout", "0")
    await told("status", "loom-00000000", code=1)
    await told("token", "add", "bob", "--role", "reader")
    await told("token", "list")
    await told("token", "revoke", "nobody", code=1)


async def test_an_import_arrives_from_afar(two: Two, loom: Loom) -> None:
    plan = two.remote.directory / "plan.yaml"
    plan.write_text("tasks:\n- title: one\n- title: two\n  depends_on: [one]\n")
    made = await two.afar("import", str(plan))
    again = await two.afar("import", str(plan))
    assert shape(made) == shape(again) | {"created": shape(made).get("created")} or made != again
    assert (await loom.status()).counts[TaskStatus.PENDING] == 1


@pytest.mark.parametrize(
    "words", [["up"], ["down"], ["migrate"], ["orchestrate", "--once"], ["land"], ["serve", "--http"]]
)
async def test_what_needs_the_database_says_so_in_a_sentence(two: Two, words: list[str]) -> None:
    refused = await asyncio.to_thread(two.remote.inside, *words)
    assert refused.code in (1, 2), refused.out
    assert refused.err.count("error:") == 1
    assert "server" in refused.err or "served" in refused.err


async def test_who_has_no_token_or_a_wrong_one_is_told(two: Two, loom: Loom) -> None:
    none = await asyncio.to_thread(lambda: two.remote.inside("status", LOOM_TOKEN=""))
    assert (none.code, "There is no access token for" in none.err) == (1, True)
    wrong = await asyncio.to_thread(lambda: two.remote.inside("status", LOOM_TOKEN="loom_x"))
    assert "is not known here, is over, or was revoked" in wrong.err
    reader = (await loom.add_token("ann", "reader")).secret
    refused = await asyncio.to_thread(lambda: two.remote.inside("create", "x", LOOM_TOKEN=reader))
    assert "create needs the role worker, and ann is a reader" in refused.err


# --- the credentials ------------------------------------------------------------------------------------------------


def test_a_token_is_found_for_its_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://loom.example.org"
    monkeypatch.delenv("LOOM_TOKEN", raising=False)
    with pytest.raises(TokenError, match="no access token for https://loom"):
        credentials.token_for(url)
    credentials.path().parent.mkdir(parents=True, exist_ok=True)
    credentials.path().write_text(f"# mine\nhttps://other.example.org loom_other\n{url}/ loom_mine\n")
    credentials.path().chmod(0o644)
    with pytest.raises(ConfigError, match="can be read or written by others"):
        credentials.token_for(url)
    credentials.path().chmod(0o600)
    assert credentials.token_for(url) == "loom_mine"
    for other in ("https://evil.example.org", f"{url}.evil.org", f"{url}:8443", "http://loom.example.org"):
        with pytest.raises(TokenError):
            credentials.token_for(other)
    credentials.path().write_text("x" * 100_000)
    with pytest.raises(ConfigError, match="cannot be read: it is larger than 64 kB"):
        credentials.token_for(url)
    monkeypatch.setenv("LOOM_TOKEN", "loom_now")
    assert credentials.token_for(url) == "loom_now"


@pytest.mark.parametrize("token", ["tökén", "loom_a\nhost: evil", "Bearer loom_x", "loom_\x1bx"])
def test_what_no_header_can_carry_is_no_token(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_TOKEN", token)
    with pytest.raises(TokenError, match="What LOOM_TOKEN has is no access token"):
        credentials.token_for("https://loom.example.org")


def test_a_token_does_not_travel_in_the_clear() -> None:
    with pytest.raises(ConfigError, match="is not https"):
        client.Client("http://loom.example.org", "loom_x")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://x"])
def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigError, match="The proxy that HTTPS_PROXY or ALL_PROXY names cannot be used"):
        client.Client("https://loom.example.org", "x")


async def test_a_token_for_this_machine_passes_no_proxy(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as proxy:
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        async with served.remote(monkeypatch) as remote:
            assert (await remote.status()).counts is not None
    assert heard == []


async def test_a_servers_url_of_a_repository_counts_only_once_it_is_trusted(bare: Cli) -> None:
    (bare.directory / ".loom").mkdir()
    (bare.directory / ".loom" / "config.yaml").write_text("project_name: x\nserver:\n  url: https://evil.example.org\n")
    shown = await asyncio.to_thread(lambda: bare.inside("config", "show", "--json", LOOM_TOKEN="loom_x"))
    assert shown.json["values"]["server.url"]["value"] is None


# --- in Python ------------------------------------------------------------------------------------------------------


async def test_errors_are_the_same_from_afar(served: Served, monkeypatch: pytest.MonkeyPatch, loom: Loom) -> None:
    made = await loom.create("a task")
    await loom.claim(made.id)
    async with served.remote(monkeypatch) as ann:
        attempts: list[Callable[[Loom], Awaitable[object]]] = [
            lambda one: one.get("loom-00000000"),
            lambda one: one.claim(made.id),
        ]
        for attempt in attempts:
            errors = []
            for one in (loom.beside(agent="ann"), ann):
                with pytest.raises((TaskNotFoundError, ClaimConflictError)) as raised:
                    await attempt(one)
                errors.append(raised.value)
            assert type(errors[0]) is type(errors[1])
            assert errors[0].said == errors[1].said
            assert errors[0].said.calls == errors[1].said.calls
        with pytest.raises(ForbiddenError):
            await ann.create("mine")
        with pytest.raises(NotFromAfarError):
            await ann.transact(lambda tx: asyncio.sleep(0))


async def test_claims_are_remembered_and_given_back_from_afar(
    served: Served, monkeypatch: pytest.MonkeyPatch, loom: Loom
) -> None:
    one, two = await loom.create("one"), await loom.create("two")
    async with served.remote(monkeypatch, agent="ann/a") as ann:
        claim = await ann.claim(one.id)
        assert claim is not None
        assert claim.task.assignee == "ann/a"
        assert (ann.lease_left(one.id, claim.task.claim_token) or 0) > 500
        await ann.claim(two.id)
        assert (await ann.done(one.id)).task.status is TaskStatus.DONE
        assert await ann.renew() == []
        assert [task.id for task in await ann.end_session()] == [two.id]
    assert (await loom.get(two.id)).task.attempt == 0


async def test_a_wait_and_a_read_survive_a_server_that_begins_anew(
    loom: Loom, config: LoomConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PAUSES", (0.05, 0.1))
    monkeypatch.setenv("LOOM_TOKEN", (await loom.add_token("ann", "reader")).secret)
    async with serving(config) as port:
        remote = Remote(LoomConfig(server=ServerConfig(f"http://127.0.0.1:{port}")))
        await remote.connect()
        waiting = asyncio.create_task(remote.wait("any", timeout=30))
        await asyncio.sleep(0.5)
    assert not waiting.done()
    looking = asyncio.create_task(remote.status())
    await asyncio.sleep(0.5)
    async with serving(config, port):
        assert (await looking).counts[TaskStatus.PENDING] == 0
        await loom.create("news")
        assert [one.task_id for one in (await waiting).events][:1] or (await waiting).changed
        await remote.close()


async def test_a_server_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PATIENCE", 0.3)
    monkeypatch.setenv("LOOM_TOKEN", "loom_x")
    remote = Remote(LoomConfig(server=ServerConfig("http://127.0.0.1:1")))
    with pytest.raises(ServersError, match="does not answer"):
        await remote.connect()
    await remote.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 502 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"])
async def test_what_may_not_be_done_twice_is_asked_once(answer: bytes) -> None:
    asked: list[bytes] = []

    async def lose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer if len(asked) < 3 else b"HTTP/1.1 404 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(lose, "127.0.0.1", 0) as losing:
        host, port = losing.sockets[0].getsockname()
        server = client.Client(f"http://{host}:{port}", "loom_x")
        with pytest.raises(ServersError, match="does not answer"):
            await server.call("create", {"title": "A"})
        assert len(asked) == 1
        with pytest.raises(ConfigError, match="404"):
            await server.call("status", {}, repeatable=True)
        assert len(asked) == 3
        await server.close()


async def test_a_token_follows_no_redirect() -> None:
    heard: list[bytes] = []

    async def lead_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 307 X\r\nlocation: /else\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(lead_on, "127.0.0.1", 0) as leading:
        host, port = leading.sockets[0].getsockname()
        server = client.Client(f"http://{host}:{port}", "loom_x")
        with pytest.raises(ConfigError, match="status 307"):
            await server.call("status", {}, repeatable=True)
        await server.close()
    assert len(heard) == 1


_DATA = '{"error": {"code": "x", "cause": "away", "data": {"error": "TokenError", "cause": null, "next_step": 7}}}'


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>", "in a way that this Loom does not know"),
        (200, b"{}", "in a way that this Loom does not know"),
        (200, b"[]", "in a way that this Loom does not know"),
        (200, b"\xff", "in a way that this Loom does not know"),
        (200, b"[" * 100_000, "in a way that this Loom does not know"),
        (200, b'{"project_id": 7, "principal": null}', "in a way that this Loom does not know"),
        (404, b"[" * 100_000, "status 404"),
        (404, b"\xff", "status 404"),
        (500, _DATA.encode(), "away"),
    ],
)
async def test_what_is_no_server_of_looms_is_told(
    status: int, body: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body)
        writer.close()

    monkeypatch.setenv("LOOM_TOKEN", "loom_x")
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as strange:
        host, port = strange.sockets[0].getsockname()
        remote = Remote(LoomConfig(server=ServerConfig(f"http://{host}:{port}")))
        with pytest.raises(LoomError, match=told):
            await remote.connect()
        await remote.close()


async def test_workers_work_from_afar_without_the_database(
    served: Served, monkeypatch: pytest.MonkeyPatch, loom: Loom, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    first = await loom.create("first")
    second = await loom.create("second", depends_on=[first.id])
    words = command_line(["sh", "-c", 'echo "{\\"made\\": \\"$LOOM_TASK_ID\\"}"'], None)
    async with served.remote(monkeypatch) as ann:
        assert await Workers(ann, words, agents=2, prefix="ann/w").run() == []
        with pytest.raises(NotFromAfarError, match="lands where"):
            Workers(ann, words, land=True)
    for task in (first, second):
        done = (await loom.get(task.id)).task
        assert (done.status, done.output) == (TaskStatus.DONE, {"made": task.id})
        assert (done.assignee or "").startswith("ann/w-")


# --- a directory that leads there -----------------------------------------------------------------------------------


async def test_a_directory_leads_to_a_server_and_no_file_has_the_token(served: Served, bare: Cli, loom: Loom) -> None:
    token = await served.token("ann", "planner")
    mcp = bare.directory / ".mcp.json"
    mcp.write_text('{"mcpServers": {"other": {"command": "x"}}}')
    made = await asyncio.to_thread(lambda: bare.ok("init", "--remote", f"{served.url}/mcp/", LOOM_TOKEN=token))
    assert made["server"] == served.url
    assert (await asyncio.to_thread(lambda: bare.ok("init", "--remote", served.url)))["files"] == dict.fromkeys(
        made["files"], "unchanged"
    )
    servers = json.loads(mcp.read_text())["mcpServers"]
    assert servers["other"] == {"command": "x"}
    assert servers["loom"] == {
        "type": "http",
        "url": f"{served.url}/mcp",
        "headers": {"Authorization": "Bearer ${LOOM_TOKEN}"},
    }
    for path in bare.directory.rglob("*"):
        assert path.is_dir() or token not in path.read_text()
    created = await asyncio.to_thread(lambda: bare.ok("create", "from here", LOOM_TOKEN=token))
    assert (await loom.get(created["id"])).task.title == "from here"
    credentials_file = Path(bare.env["HOME"]) / ".loom" / "credentials"
    credentials_file.write_text(f"{served.url} {token}\n")
    credentials_file.chmod(0o600)
    assert (await asyncio.to_thread(lambda: bare.ok("ready")))["count"] == 1


def test_a_token_is_kept_for_its_owner_alone(bare: Cli) -> None:
    url, token = "http://127.0.0.1:1", "loom_0123456789ab_" + "x" * 43
    kept = Path(bare.env["HOME"]) / ".loom" / "credentials"
    done = bare.inside("init", "--remote", url, "--with-token", stdin=f"{token}\n")
    assert (done.code, token in done.out + done.err, str(kept) in done.out) == (0, False, True)
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == (f"{url} {token}\n", 0o600)
    bare.ok("init", "--remote", "http://127.0.0.1:2/mcp", "--with-token", stdin="loom_two")
    bare.ok("init", "--remote", f"{url}/", "--with-token", stdin="loom_three")
    assert kept.read_text() == "http://127.0.0.1:2 loom_two\nhttp://127.0.0.1:1 loom_three\n"
    for wrong in ("", "two words", "ünicode"):
        refused = bare.inside("init", "--remote", url, "--with-token", stdin=wrong)
        assert (refused.code, "is no access token" in refused.err) == (1, True)
    kept.chmod(0o644)
    assert "chmod 600" in bare.inside("init", "--remote", url, "--with-token", stdin=token).err
    assert "loom_three" in kept.read_text()
    assert "--with-token goes with --remote" in bare.inside("init", "--with-token").err
    asked = bare.inside("status", LOOM_TOKEN="")
    assert asked.code == 1, "others can read it"


def test_what_is_no_address_of_a_server_is_refused(bare: Cli) -> None:
    refused = bare.inside("init", "--remote", "loom.example.org")
    assert (refused.code, "--remote must be a URL" in refused.err) == (2, True)
    assert list(bare.directory.iterdir()) == []


@pytest.mark.parametrize("words", [["decompose", "a goal"], ["workflow", "status"], ["skill", "run", "define_done"]])
async def test_what_needs_the_database_says_how_it_is_done_instead(two: Two, words: list[str]) -> None:
    refused = await asyncio.to_thread(two.remote.inside, *words)
    assert (refused.code, "where its database is" in refused.err) == (1, True), refused.err
    assert "have an agent do it with the server's tools" in refused.err


async def test_a_board_is_opened_from_afar(two: Two, served: Served) -> None:
    url = (await two.afar("board", "--print"))["url"]
    assert url.startswith(f"{served.url}/enter?code=")
    async with served.http() as browser:
        assert (await browser.get(url)).status_code == 303
        assert (await browser.get("/")).status_code == 200


def test_each_operation_of_the_front_can_be_carried() -> None:
    for operation in codec.OPERATIONS:
        assert not codec.takes(operation, "")
