"""People are told what waits for them: soon, once, whoever runs, and also when the other side was away meanwhile."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from loom.bus.events import START, Event, EventType
from loom.config import LoomConfig, McpConfig, ReceiverConfig
from loom.config.keys import NEWS
from loom.db.connection import Pool
from loom.graph import store
from loom.graph.front import Loom
from loom.graph.store import notices
from loom.graph.store.escalations import Escalation, EscalationKind
from loom.graph.store.notices import Confirm, Cursor, Standing
from loom.orchestration.housekeeping import Housekeeper
from loom.orchestration.notices import news, senders, teller
from loom.orchestration.notices.receivers import of_project
from loom.skills import decomposer
from loom.workflows import runs
from tests.graph.test_landings import TARGET
from tests.graph.test_landings import begun as landing_begun
from tests.graph.test_landings import enter as landing_enter
from tests.skills.conftest import good_plan
from tests.test_wording import command, options
from tests.waiting import until
from tests.workflows.conftest import begun as flow_begun

Clock = Callable[[float], Awaitable[None]]


class Heard(NamedTuple):
    """A request."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A receiver over HTTP: what it was told, and what it answers."""

    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.heard]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.heard.append(Heard(head[0], headers, body))
        await self.gate.wait()
        more = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        writer.write(f"HTTP/1.1 {self.status} x\r\nconnection: close\r\n{more}\r\n".encode() + self.body)
        writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield receiver
    receiver.gate.set()
    server.close()


def told(config: LoomConfig, **rows: ReceiverConfig) -> LoomConfig:
    return replace(config, notify=rows)


@asynccontextmanager
async def running(config: LoomConfig, processes: int = 1) -> AsyncIterator[list[Loom]]:
    """So many processes with housekeeping, once each has looked: what is there already is told to nobody."""
    async with AsyncExitStack() as stack:
        looms = [await stack.enter_async_context(Loom(config, agent=f"keeper{number}")) for number in range(processes)]
        for loom in looms:
            await teller.Teller(loom, of_project(config)).look()
            housekeeper = Housekeeper(loom)
            housekeeper.start()
            stack.push_async_callback(housekeeper.stop)
        yield looms


async def ask(loom: Loom, question: str = "Which one?", title: str = "Write it") -> str:
    task = await loom.create(title)
    await loom.claim(task.id)
    await loom.escalate(task.id, question)
    (raised,) = [one for one in await loom.escalations() if one.task_id == task.id]
    return raised.id


async def test_a_question_reaches_slack_with_what_answers_it(
    loom: Loom, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teller, "_LOOKS", (60.0, 60.0))  # so that only what happens has it look in time
    config = replace(told(loom.config, me=ReceiverConfig(slack=receiver.url)), mcp=McpConfig(public_url="https://b.x/"))
    dependent = await loom.create("Use it")
    async with running(config):
        raised = await ask(
            loom, "<!channel> Tabs & spaces? postgres://me:hunter2@db/x sk-ant-0123456789abcdefghij", "<!here>"
        )
        await until(lambda: receiver.heard)
        await asyncio.sleep(2)
    (body,) = receiver.bodies
    task_id = (await loom.escalations())[0].task_id
    assert body["text"] == (
        "*test: tester asks about “&lt;!here&gt;”*\n&lt;!channel&gt; Tabs &amp; spaces? postgres://me:***@db/x ***\n"
        f"loom resolve {raised} answer --note TEXT\n<https://b.x/tasks/{task_id}|Answer it on the board>"
    )
    assert dependent.id not in body["text"]


async def test_of_many_processes_one_tells(loom: Loom, receiver: Receiver) -> None:
    async with running(told(loom.config, me=ReceiverConfig(webhook=receiver.url)), processes=4):
        for number in range(6):
            await ask(loom, f"Question {number}?")
            await asyncio.sleep(0.3)
        await until(lambda: len(receiver.heard) >= 6)
        await asyncio.sleep(2)
    assert [body["data"]["text"] for body in receiver.bodies] == [f"Question {number}?" for number in range(6)]


async def test_a_webhook_knows_by_its_signature_who_tells_it(loom: Loom, receiver: Receiver) -> None:
    key = base64.b64encode(b"k" * 24).decode()
    async with running(told(loom.config, me=ReceiverConfig(webhook=receiver.url, secret=f"whsec_{key}"))):
        raised = await ask(loom)
        await until(lambda: receiver.heard)
    ((line, headers, body),) = receiver.heard
    assert line == "POST / HTTP/1.1"
    signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
    digest = base64.b64encode(hmac.digest(b"k" * 24, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    found = json.loads(body)
    project = {"id": loom.project_id, "name": "test"}
    assert {"type": found["type"], "project": found["project"]} == {"type": "loom.question", "project": project}
    assert found["data"]["answers"] == [f"loom resolve {raised} answer --note TEXT"]
    assert headers["webhook-id"] == f"{loom.project_id}/{found['data']['id']}"
    assert senders.signed("plain", "a", b"b")["webhook-signature"].startswith("v1,"), "any text is a secret"
    assert "webhook-signature" not in senders.signed(None, "a", b"b")


async def test_ntfy_gets_a_title_a_text_and_its_token(loom: Loom, receiver: Receiver) -> None:
    row = ReceiverConfig(ntfy=f"{receiver.url}/my-topic", token="tk_1")
    async with running(told(loom.config, me=row)):
        await ask(loom, "Wüste?", "Größe")
        await until(lambda: receiver.heard)
    ((line, headers, _),) = receiver.heard
    assert (line, headers["authorization"]) == ("POST / HTTP/1.1", "Bearer tk_1")
    (body,) = receiver.bodies
    assert (body["topic"], body["title"]) == ("my-topic", "test: tester asks about “Größe”")
    assert body["message"].startswith("Wüste?\nloom resolve esc-")


async def test_a_command_gets_it_as_variables_and_as_json(loom: Loom, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        f'(printf "%s|%s|%s|" "$PWD" "$LOOM_NOTICE_TITLE" "$LOOM_NOTICE_TEXT"; cat) > {out}.new; mv {out}.new {out}'
    )
    async with running(told(loom.config, me=ReceiverConfig(command=("sh", "-c", script)))):
        await ask(loom, "$(touch x)")
        await until(out.exists)
    place, title, text, data = out.read_text().split("|", 3)
    assert place == str(Path.home()), "not among files that agents write"
    assert title == "test: tester asks about “Write it”"
    assert text.startswith("$(touch x)\nloom resolve ")
    assert json.loads(data)["news"][0]["event"] == "question"


async def test_what_comes_together_is_told_together(loom: Loom, receiver: Receiver) -> None:
    receiver.gate.clear()
    async with running(told(loom.config, me=ReceiverConfig(slack=receiver.url))):
        await ask(loom, "First?")
        await until(lambda: receiver.heard)
        for number in range(15):
            await ask(loom, f"Question {number}?")
        receiver.gate.set()
        await until(lambda: len(receiver.heard) == 2)
        await asyncio.sleep(1.5)
    assert len(receiver.heard) == 2
    lines = receiver.bodies[1]["text"].splitlines()
    assert (lines[0], lines[-1]) == ("*test: 15 questions*", "and 5 more")


async def test_who_was_away_is_told_later_and_of_nothing_that_is_settled(
    loom: Loom, receiver: Receiver, pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(teller, "_AWAY", (0.5, 0.5))
    receiver.status, receiver.body = 503, b"no_service token=abc " + b"x" * 100_000
    config = told(loom.config, me=ReceiverConfig(slack=f"{receiver.url}/T0/secret"))
    async with running(config):
        settled = await ask(loom, "Settled?")
        await ask(loom, "Open?")
        await until(lambda: len(receiver.heard) >= 3)
        error = await pool.fetchval("select error from notify_cursors")
        await loom.resolve(settled, "retry")
        receiver.status = 200
        await until(lambda: "Settled?" not in receiver.bodies[-1]["text"])
        await asyncio.sleep(1.5)
    taken = [one["text"] for one in receiver.bodies if "Settled?" not in one["text"]]
    assert len(taken) == 1
    assert "Open?" in taken[0]
    assert error.startswith("127.0.0.1 answered 503: no_service token=*** xxx")
    assert len(error) < 300
    complaints = [one.getMessage() for one in caplog.records if one.name == teller.__name__]
    assert len(complaints) == 1, "it is said once"
    assert "secret" not in error + complaints[0]


async def test_a_receiver_that_wants_to_be_left_alone_is(loom: Loom, receiver: Receiver, pool: Pool) -> None:
    receiver.status, receiver.headers = 429, {"retry-after": "1000"}
    async with running(told(loom.config, me=ReceiverConfig(slack=receiver.url))):
        await ask(loom)
        await until(lambda: receiver.heard)
        await asyncio.sleep(1)
        left = await pool.fetchval("select extract(epoch from retry_at - now())::float8 from notify_cursors")
    assert 900 < left < 1001
    assert len(receiver.heard) == 1


async def test_no_redirect_is_followed(loom: Loom, receiver: Receiver, pool: Pool) -> None:
    receiver.status, receiver.headers = 307, {"location": f"{receiver.url}/elsewhere"}
    async with running(told(loom.config, me=ReceiverConfig(slack=f"{receiver.url}/hook"))):
        await ask(loom)
        await until(lambda: receiver.heard)
        await asyncio.sleep(1)
        assert (await pool.fetchval("select error from notify_cursors")).startswith("127.0.0.1 answered 307")
    assert [line for line, _, _ in receiver.heard] == ["POST /hook HTTP/1.1"]


async def test_one_that_does_not_answer_holds_up_no_other(
    loom: Loom, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Pool
) -> None:
    monkeypatch.setattr(senders, "LONGEST", 1.0)
    receiver.gate.clear()
    out = tmp_path / "out"
    rows = {"one": ReceiverConfig(slack=receiver.url), "two": ReceiverConfig(command=("touch", str(out)))}
    async with running(told(loom.config, **rows)):
        await ask(loom)
        await until(out.exists)
        error = await pool.fetchval("select error from notify_cursors where receiver like 'one/%'")
    assert error == "It did not take it within 1 s."


@pytest.mark.parametrize(("pause", "why"), [(0.1, "did not take it within 1 s"), (0.0, "answered 500: xxx")])
async def test_an_answer_without_end_is_not_read_to_its_end(
    pause: float, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "LONGEST", 1.0 if pause else 30.0)
    left = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 x\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" if pause else b"x" * 10_000)
                await writer.drain()
                await asyncio.sleep(pause)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        left.set()

    bundle = news.Bundle("id", "shop", [news.example()])
    async with await asyncio.start_server(drip, "127.0.0.1", 0) as dripping, asyncio.timeout(60):
        url = f"http://127.0.0.1:{dripping.sockets[0].getsockname()[1]}"
        with pytest.raises(senders.NotTakenError, match=why):
            await senders.send(ReceiverConfig(slack=url), bundle)
        await left.wait()


def test_nobody_is_left_alone_for_longer_than_a_day_or_so() -> None:
    asked = [senders._asked_rest({"retry-after": given}) for given in ("60", "999999", "9" * 5_000, "-1", "soon", "²")]
    assert asked == [60.0, None, None, None, None, None]


async def test_a_process_that_is_killed_while_it_tells_loses_nothing(
    loom: Loom, receiver: Receiver, pool: Pool, tmp_path: Path
) -> None:
    """It is told again by the next, under the same id: at least once."""
    receiver.gate.clear()
    home = tmp_path / "home"
    (home / ".loom").mkdir(parents=True)
    (home / ".loom" / "config.yaml").write_text(f"notify: {{me: {{webhook: '{receiver.url}'}}}}\n")
    config = told(loom.config, me=ReceiverConfig(webhook=receiver.url))
    await teller.Teller(loom, of_project(config)).look()
    assert loom.config.database.url
    assert loom.config.redis.url
    env = {name: value for name, value in os.environ.items() if not name.startswith("LOOM_")} | {
        "HOME": str(home),
        "LOOM_DATABASE_URL": loom.config.database.url,
        "LOOM_REDIS_URL": loom.config.redis.url,
        "LOOM_PROJECT_ID": loom.project_id,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    first = await asyncio.create_subprocess_exec(sys.executable, "-m", "loom", "orchestrate", cwd=tmp_path, env=env)
    try:
        await ask(loom)
        await until(lambda: receiver.heard)
    finally:
        first.kill()
        await first.wait()
    receiver.gate.set()
    await pool.execute("update notify_cursors set held_until = held_until + interval '1 hour'")
    async with running(config):
        await until(lambda: len(receiver.heard) == 2)  # at once: that process is known to be dead
        await asyncio.sleep(1.5)
    ids = [headers["webhook-id"] for _, headers, _ in receiver.heard]
    assert len(ids) == 2
    assert ids[0] == ids[1]


async def test_what_is_being_told_when_a_process_ends_is_told_to_its_end(
    loom: Loom, receiver: Receiver, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teller, "_LAST_MOMENT", 30.0)
    receiver.gate.clear()
    async with running(told(loom.config, me=ReceiverConfig(webhook=receiver.url))):
        await ask(loom)
        await until(lambda: receiver.heard)
        asyncio.get_running_loop().call_later(0.5, receiver.gate.set)
    assert await pool.fetchval("select told_at is not null from notify_cursors"), "nobody tells it again"


async def test_what_happened_while_nobody_ran_is_told_afterwards(loom: Loom, receiver: Receiver) -> None:
    config = told(loom.config, me=ReceiverConfig(webhook=receiver.url))
    async with running(config):
        await ask(loom, "First?")
        await until(lambda: receiver.heard)
    await ask(loom, "Second?")
    async with running(config, processes=2):
        await until(lambda: len(receiver.heard) == 2)
        await asyncio.sleep(1)
    assert [body["data"]["text"] for body in receiver.bodies] == ["First?", "Second?"]


async def test_a_transaction_that_stays_open_holds_up_no_notice(loom: Loom, receiver: Receiver, pool: Pool) -> None:
    async with running(told(loom.config, me=ReceiverConfig(webhook=receiver.url))), pool.acquire() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("create temporary table busy (a int)")
        await ask(loom)
        await until(lambda: receiver.heard)
        await transaction.rollback()


async def test_in_another_history_of_the_database_it_goes_on_where_it_was(
    loom: Loom, receiver: Receiver, pool: Pool
) -> None:
    """Transaction numbers may begin anew there, those of events do not."""
    config = told(loom.config, me=ReceiverConfig(webhook=receiver.url))
    async with running(config):
        await ask(loom, "First?")
        await until(lambda: receiver.heard)
    await ask(loom, "Second?")
    await pool.execute("update notify_cursors set history = 'another', since = '9000000000:9000000000:'")
    async with running(config):
        await until(lambda: len(receiver.heard) == 2)
        await asyncio.sleep(1)
    assert [body["data"]["text"] for body in receiver.bodies] == ["First?", "Second?"]


async def test_each_is_told_what_it_is_for(loom: Loom, receiver: Receiver) -> None:
    rows = {
        "mine": ReceiverConfig(webhook=f"{receiver.url}/mine", events=("dead_letter", "complete"), projects=("test",)),
        "other": ReceiverConfig(webhook=f"{receiver.url}/other", projects=("elsewhere",)),
    }
    async with running(told(loom.config, **rows)):
        question = await ask(loom)
        task = await loom.create("Try it")
        await loom.create("Use it", depends_on=[task.id])
        await loom.claim(task.id)
        await loom.fail(task.id, "It\u202e cannot be done.", retry=False)
        await until(lambda: receiver.heard)
        await loom.resolve(question, "cancel")
        await loom.cancel(task.id, downstream=True)
        other = await loom.create("Last")
        await loom.done(other.id)
        await until(lambda: len(receiver.heard) == 2)
    assert {line for line, _, _ in receiver.heard} == {"POST /mine HTTP/1.1"}
    dead, complete = (body["data"] for body in receiver.bodies)
    assert (dead["event"], dead["text"]) == ("dead_letter", "It cannot be done.")
    assert dead["headline"] == "“Try it” has failed for good, which 1 other task waits for"
    assert complete["headline"] == "every task is done or cancelled"


async def test_what_waits_for_a_yes_is_told_until_it_has_one(loom: Loom, receiver: Receiver) -> None:
    async with running(told(loom.config, me=ReceiverConfig(webhook=receiver.url, events=("confirm",)))):
        run = await flow_begun(loom, "- {id: ask, type: confirm, message: Go on?}")
        await flow_begun(loom, "- {id: rest, type: wait, seconds: 60}")
        await until(lambda: receiver.heard)
        claim = await landing_begun(loom, "Write it")
        await loom.done(claim.task.id, {})
        await landing_enter(loom, claim.task, needs_yes=True)
        await until(lambda: len(receiver.heard) == 2)
        await decomposer.propose(loom, good_plan(), goal="Asked about", of_workflow=True)
        plan = await decomposer.propose(loom.beside(agent="ada"), good_plan(), goal="Sign-in")
        await until(lambda: len(receiver.heard) == 3)
    first, second, third = (body["data"] for body in receiver.bodies)
    assert (first["headline"], first["text"]) == ("the workflow trial waits for your yes", "Go on?")
    assert (third["headline"], third["text"]) == ("a plan of 5 tasks by ada waits for your yes", "Sign-in")
    assert third["answers"][0] == f"loom decompose --plan {plan['plan_id']}"
    assert first["answers"] == [f"loom workflow resume {run.id} --yes", f"loom workflow resume {run.id} --no"]
    assert second["headline"] == f"“Write it” waits for your yes to land on {TARGET}"
    for line in (*first["answers"], *second["answers"], *third["answers"]):
        found, words = command(shlex.split(line))
        assert {word for word in words if word.startswith("-")} <= set(options(found)), line
    await runs.confirm(loom, run.id, yes=True)
    await loom.approve(claim.task.id)
    await decomposer.refuse(loom, plan["plan_id"])
    events = await loom.look(lambda connection: store.events.after(connection, loom.project_id, START, limit=1000))
    left = await loom.look(lambda connection: news.read(connection, loom.config, events, NEWS))
    assert left == [], "what is settled is told to nobody who looks later"


async def test_in_quiet_hours_nobody_is_told_and_afterwards_once(
    loom: Loom, receiver: Receiver, clock: Clock, pool: Pool
) -> None:
    now = (await pool.fetchval("select loom_now()")).astimezone()
    quiet = f"{(now.hour - 1) % 24:02}:00-{(now.hour + 2) % 24:02}:00"  # for an hour more, at the least
    config = told(loom.config, me=ReceiverConfig(slack=receiver.url, quiet=quiet))
    async with running(config):
        await ask(loom, "One?")
        await ask(loom, "Two?")
        await asyncio.sleep(2.5)
        assert not receiver.heard
    await clock(3 * 3600)
    async with running(config):
        await until(lambda: receiver.heard)
    assert receiver.bodies[0]["text"].startswith("*test: 2 questions*")


def test_quiet_hours_end_when_they_say() -> None:
    def left(span: str, at: str) -> float:
        moment = datetime.fromisoformat(f"2026-03-04T{at}").astimezone()
        return teller._quiet_left(ReceiverConfig(quiet=span), moment.astimezone(UTC))

    assert left("22:00-07:00", "23:30") == 7.5 * 3600
    assert left("22:00-07:00", "06:59") == 60
    assert left("22:00-07:00", "07:00") == left("22:00-07:00", "21:59") == 0
    assert left("12:00-13:00", "12:30") == 1800
    assert left("12:00-13:00", "13:00") == left("12:00-13:00", "11:59") == 0


def test_quiet_hours_are_those_of_their_zone() -> None:
    row, noon = ReceiverConfig(quiet="22:00-07:00", zone="Asia/Tokyo"), datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
    assert teller._quiet_left(row, noon) == 0, "it is 21:00 there"
    assert teller._quiet_left(row, noon + timedelta(hours=2)) == 8 * 3600


def test_every_kind_of_news_has_its_words() -> None:
    assert set(news._MAKERS) == set(news._NOUNS) == set(NEWS)


def test_whatever_somebody_wrote_is_told_without_keys_in_it() -> None:
    odd, now = "sk-ant-0123456789abcdefghij\u202e", datetime.now(UTC)
    raised = Escalation("esc-1", "loom-1", EscalationKind.QUESTION, odd, "ada", now, 1)
    still = Standing(
        {"esc-1": raised}, {"run-1": Confirm("run-1", odd, odd)}, {"plan-1": odd}, {"loom-2": odd}, {"loom-1": odd}
    )
    made = [
        news._escalation(Event(EventType.ESCALATION_RAISED, "loom-1", data={"escalation": "esc-1"}), still),
        news._confirm(Event(EventType.TASK_LANDING, "loom-2"), still),
        news._confirm(Event(EventType.WORKFLOW_WAITING, data={"run": "run-1"}), still),
        news._confirm(Event(EventType.PLAN_PROPOSED, data={"plan_id": "plan-1", "tasks": 2}), still),
    ]
    for one in made:
        assert one is not None
        said = one.headline + one.text
        assert "***" in said
        assert odd[:-1] not in said
        assert odd[-1] not in said


async def test_a_cursor_is_moved_by_who_holds_it_alone(loom: Loom) -> None:
    async def now() -> Cursor:
        found = await loom.look(lambda connection: notices.cursors(connection, loom.project_id, ["me"]))
        return replace(found["me"], now=datetime.min)

    async def take(seen: Cursor, who: str, *, died: bool = False) -> bool:
        return await loom.transact(lambda tx: notices.take(tx, seen, who, f"process of {who}", 60.0, died=died))

    await loom.transact(lambda tx: notices.enter(tx, ["me"]))
    free = await now()
    assert await take(free, "first")
    held = await now()
    assert not await take(held, "second")
    assert await take(held, "second", died=True)
    assert not await take(held, "third", died=True), "who has died is not who holds it now"
    held = await now()
    await loom.transact(lambda tx: notices.told(tx, "me", "first", "9:9:"))
    await loom.transact(lambda tx: notices.failed(tx, "me", "first", "away", 60.0))
    await loom.transact(lambda tx: notices.written(tx, "me", "first", date(2026, 1, 1)))
    await loom.transact(lambda tx: notices.passed(tx, held, "9:9:"))
    assert await now() == held
    await loom.transact(lambda tx: notices.told(tx, "me", "second", "8:8:"))
    await loom.transact(lambda tx: notices.passed(tx, free, "9:9:"))
    moved = await now()
    assert (moved.since, moved.held_until) == ("8:8:", None)
    assert not await take(free, "fourth"), "it has been moved since"
    await loom.transact(lambda tx: notices.enter(tx, ["me"]))
    assert (await now()).since == "8:8:", "who is known already is told of what has happened since"
    assert await take(moved, "fifth")
    await loom.transact(lambda tx: notices.failed(tx, "me", "fifth", "away", 60.0))
    assert not await take(moved, "sixth"), "it rests"
