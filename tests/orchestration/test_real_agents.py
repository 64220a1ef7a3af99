"""`loom work` with the agents' real commands, their models on loopback by script: how each end of theirs is understood.

What they print differs with each version of theirs; what is held here is what becomes of the task.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loom.bus.events import EventType
from loom.config.trust import trust
from loom.graph.front import Loom
from loom.graph.model.task import Task
from loom.landing.places import state_dir
from loom.orchestration.workers.resting import Resting, resting
from tests.agents.installed import NEW_MODEL, OLD_MODEL, PACKAGES, Agent, agent
from tests.agents.models import (
    TOKENS_IN,
    TOKENS_OUT,
    Models,
    Request,
    Script,
    Turn,
    error,
    mcp,
    refuse,
    run,
    say,
    serving,
    used_up,
    write,
)
from tests.orchestration.conftest import Project, in_environment, task_now
from tests.waiting import alive, pids

pytestmark = pytest.mark.timeout(300)  # an agent starts in 2 s, on a busy machine in 20
_SETTINGS = """\
orchestration: {sweep_seconds: 0.2, backoff_base_seconds: 0, claim_ttl_seconds: 120}
checks: {two: {command: [sh, check.sh]}}
landing: {checks: [two]}
"""
_INSTRUCTIONS = "Indent with four spaces.\n"
_CHECK = "test ! -e b.py || grep 'y = 2' b.py || { echo 'b.py has another y'; exit 1; }\n"


@pytest.fixture
async def loom(project_loom: Project) -> Loom:
    """The project as those see it who look at what the agents do."""
    loom = project_loom(max_retries=0)
    await loom.connect()
    return loom


class House:
    """A project in a git repository, where one of the real agents works. The repository brings along what would start
    programs in either agent, and its user has settings."""

    def __init__(self, loom: Loom, place: Path, worker: Agent) -> None:
        self.loom, self.place, self.agent = loom, place, worker
        self.home = Path(os.environ["HOME"])
        self.model = NEW_MODEL  # of Codex
        self.planted = place / "planted"
        planted = {"command": "touch", "args": [str(self.planted)]}
        hook = {"hooks": [{"type": "command", "command": f"touch {self.planted}"}]}
        self._files(
            place,
            {
                "AGENTS.md": _INSTRUCTIONS,
                "a.py": "x = 1\n",
                "check.sh": _CHECK,
                ".mcp.json": json.dumps({"mcpServers": {"planted": planted}}),
                ".claude/settings.json": json.dumps({"hooks": {"SessionStart": [hook], "Stop": [hook]}}),
                ".codex/config.toml": f"[mcp_servers.planted]\ncommand = 'touch'\nargs = ['{self.planted}']\n",
            },
        )
        self.git("init", "-q")
        self.git("config", "user.name", "Tester")
        self.git("config", "user.email", "tester@example.org")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "One")
        self._files(place, {".loom/config.yaml": _SETTINGS, ".loom/.gitignore": "*\n"})
        trust(place)
        self._files(self.home, {".claude.json": json.dumps({"mcpServers": {"mine": planted}})})
        self._files(self.home, {".claude/settings.json": json.dumps({"model": "opus"})})

    @staticmethod
    def _files(place: Path, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(text)

    def settings(self) -> list[str]:
        """What the user has set for his agents himself."""
        mine = [self.home / ".claude" / "settings.json", self.home / ".codex" / "config.toml"]
        servers = json.loads((self.home / ".claude.json").read_text())["mcpServers"]
        return [json.dumps(servers), *(path.read_text() for path in mine if path.exists())]

    def git(self, *words: str) -> str:
        return subprocess.run(["git", "-C", str(self.place), *words], check=True, capture_output=True, text=True).stdout

    @contextmanager
    def working(
        self, script: Callable[[Request], Turn], *words: str, login: bool = False, url: str | None = None
    ) -> Iterator[tuple[subprocess.Popen[str], Models]]:
        """`loom work` as a process while its agent's model says what the script has it say. `url`: of another one."""
        with serving(script) as models, in_environment(self.loom.config) as env:
            env = self.agent.asking(url or models.url, env, login=login, model=self.model)
            before = self.settings()
            working = subprocess.Popen(
                [sys.executable, "-m", "loom", "work", "--runner", self.agent.name, *(words or ["--worktree"])],
                cwd=self.place,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                yield working, models
            finally:
                working.kill()
                working.communicate()
        assert self.settings() == before
        assert not self.planted.exists()

    async def work(
        self, *turns: Turn, words: Sequence[str] = (), login: bool = False
    ) -> tuple[int, str, list[Request]]:
        """Works until nothing is left to do. Returns the exit status, what was printed and what the agent's last tools
        have answered, and what was asked."""
        with self.working(Script(*turns), *words, login=login) as (working, models):
            out, err = await asyncio.to_thread(working.communicate, timeout=240)
        answered = models.asked[-1].results if models.asked else []
        return working.returncode, "\n".join([out, err, *answered]), models.asked

    def worktree(self, task: Task) -> Path:
        """Where a task is worked on."""
        return state_dir(self.loom.config) / "worktrees" / task.id

    async def attempt(self, task: Task) -> dict[str, Any]:
        """What was noted of the only attempt at a task."""
        history = (await self.loom.get(task.id)).history
        (data,) = [one.data for one in history if one.type == EventType.ATTEMPT_ENDED]
        assert data is not None
        return dict(data)

    async def rests(self, task: Task) -> Resting:
        """Waits until the worker rests and has given its only task back, which then counts no attempt."""
        async with asyncio.timeout(120):
            while not (found := resting(self.loom.config)):  # noqa: ASYNC110 - another process has written it
                await asyncio.sleep(0.1)
            while (await task_now(self.loom, task)).status == "claimed":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        given_back = await task_now(self.loom, task)
        assert (given_back.status, given_back.attempt) == ("pending", 0)
        return found[0]

    def results(self) -> list[dict[str, Any]]:
        """What Claude Code said at the end of each of its runs."""
        (log,) = (self.place / ".loom" / "logs").glob("loom-*.log")
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"')]
        return [line for line in lines if line["type"] == "result"]


@pytest.fixture(params=list(PACKAGES))
def house(request: pytest.FixtureRequest, loom: Loom, tmp_path: Path) -> House:
    return House(loom, tmp_path, agent(request.param))


async def test_what_is_committed_and_reported_is_done(house: House) -> None:
    """With the rights that it is given."""
    task = await house.loom.create("Add b.py")
    status, printed, asked = await house.work(
        write(str(house.worktree(task) / "b.py"), "y = 2\n"),
        run("git add -A && git commit -q -m 'Add b'"),
        run("git status --short; git log -1 --format=%s"),
        mcp("loom_done", task_id=task.id, output={"files": ["b.py"]}),
        say("It is done."),
    )
    found = await task_now(house.loom, task)
    assert (found.status, found.output, found.attempt) == ("done", {"files": ["b.py"]}, 1), printed
    assert status == 0, printed
    assert house.git("show", f"loom/{task.id}:b.py") == "y = 2\n"
    assert {"mcp__loom__loom_done", "mcp__loom__loom_fail"} <= set(asked[0].tools)
    assert _INSTRUCTIONS.strip() in asked[0].said
    attempt = await house.attempt(task)
    used = {"input_tokens": 5 * TOKENS_IN, "output_tokens": 5 * TOKENS_OUT}
    assert attempt["usage"].items() >= used.items()


async def test_what_a_check_refuses_is_mended_before_it_is_done(house: House) -> None:
    """The agent's report waits for the check, and says what that has printed."""
    task = await house.loom.create("Add b.py")
    status, printed, asked = await house.work(
        run("echo 'y = 3' > b.py"),
        mcp("loom_done", task_id=task.id, output={"first": True}),
        run("echo 'y = 2' > b.py"),
        mcp("loom_done", task_id=task.id, output={"second": True}),
        say("It is done."),
    )
    assert (await task_now(house.loom, task)).output == {"second": True}, printed
    assert status == 0, printed
    assert "b.py has another y" in asked[2].results[-1]


async def test_what_a_check_refuses_goes_back_and_lands_the_second_time(house: House) -> None:
    task = await house.loom.create("Add b.py")
    status, printed, asked = await house.work(
        run("echo 'y = 3' > b.py"),
        mcp("loom_done", task_id=task.id, output={"first": True}),
        say("It is done."),
        run("echo 'y = 2' > b.py"),
        mcp("loom_done", task_id=task.id, output={"second": True}),
        say("It is done now."),
        words=["--land"],
    )
    found = await task_now(house.loom, task)
    assert (status, found.status, found.attempt) == (0, "done", 1), printed
    assert '"status":"landing"' in asked[2].results[-1]
    assert "b.py has another y" in asked[3].said
    assert "It is done." in asked[3].said
    assert house.git("show", "loom/landed:b.py") == "y = 2\n"
    assert f"Loom-Task: {task.id}" in house.git("log", "-1", "--format=%B", "loom/landed")
    attempt = await house.attempt(task)
    assert attempt["usage"]["input_tokens"] == 6 * TOKENS_IN


async def test_what_several_agents_do_at_once_lands_green(house: House) -> None:
    """Each commit of the branch that it lands on, by itself."""
    tasks = [await house.loom.create(f"Add file {number}") for number in range(3)]

    def script(request: Request) -> Turn:
        (task_id,) = set(re.findall(r"Your task is (loom-[0-9a-f]{8}), attempt", request.said))
        turns = [run(f"echo 'x = 1' > {task_id}.py"), run("git add -A && git commit -q -m 'Add it'")]
        turns += [mcp("loom_done", task_id=task_id), say("It is done.")]
        return turns[len(request.results)]

    with house.working(script, "--agents", "2", "--land") as (working, _):
        out, err = await asyncio.to_thread(working.communicate, timeout=240)
    assert working.returncode == 0, (out, err)
    told = house.git("log", "--first-parent", "--format=%(trailers:key=Loom-Task,valueonly)", "loom/landed")
    assert sorted(told.split()) == sorted(task.id for task in tasks)
    assert {f"{task.id}.py" for task in tasks} <= set(house.git("ls-tree", "--name-only", "loom/landed").split())
    assert "git merge --ff-only loom/landed" in out


async def test_codex_with_an_older_model_finds_the_programs_that_loom_finds(loom: Loom, tmp_path: Path) -> None:
    house = House(loom, tmp_path, agent("codex"))
    house.model = OLD_MODEL
    task = await loom.create("Add b.py")
    status, printed, asked = await house.work(
        write("b.py", "y = 2\n"),
        run("cat b.py; echo $PATH"),
        mcp("loom_done", task_id=task.id),
        say("It is done."),
    )
    assert status == 0, printed
    assert "y = 2" in asked[-1].results[1]
    assert str(house.agent.path.parent) in asked[-1].results[1].replace("\n", ":").split(":")


async def test_who_ends_silently_is_asked_once_in_the_same_session(house: House) -> None:
    """And what both runs have used is counted once."""
    task = await house.loom.create("Add b.py")
    status, printed, asked = await house.work(
        run("git status --short"),
        say("I believe that I have finished."),
        mcp("loom_done", task_id=task.id, output={"says": "yes"}),
        say("Reported."),
    )
    assert (await task_now(house.loom, task)).output == {"says": "yes"}, printed
    assert status == 0
    assert "I believe that I have finished." in asked[2].said
    assert "You ended without a report" in asked[2].said
    attempt = await house.attempt(task)
    used = {"input_tokens": 4 * TOKENS_IN, "output_tokens": 4 * TOKENS_OUT}
    assert attempt["runs"] == 2
    assert attempt["usage"].items() >= used.items()
    if house.agent.name == "claude":
        first, second = (one["total_cost_usd"] for one in house.results())
        assert attempt["usage"]["cost_usd"] == pytest.approx(second) == pytest.approx(2 * first)


async def test_who_refuses_in_prose_fails_with_what_he_said(house: House) -> None:
    task = await house.loom.create("Do harm")
    status, printed, asked = await house.work(say("I had rather not: it would do harm."))
    found = await task_now(house.loom, task)
    assert (status, found.status, len(asked)) == (4, "failed", 2), printed
    assert found.dead_reason is not None
    assert "ended without a report: I had rather not: it would do harm." in found.dead_reason


async def test_what_the_provider_refuses_fails(house: House) -> None:
    task = await house.loom.create("Do harm")
    status, printed, _ = await house.work(refuse())
    found = await task_now(house.loom, task)
    assert (status, found.status) == (4, "failed"), printed
    assert found.dead_reason is not None
    assert found.dead_reason.startswith("It was refused: ")


async def test_a_limit_gives_the_claim_back_and_the_worker_rests(house: House) -> None:
    """Until the moment that it is told, which Codex tells to the minute."""
    task = await house.loom.create("A")
    over = time.time() + 5400
    with house.working(Script(run("git status --short"), used_up(over)), login=True) as (working, models):
        rest = await house.rests(task)
        working.send_signal(signal.SIGTERM)
        await asyncio.to_thread(working.communicate, timeout=60)
    assert over - 60 <= rest.until.timestamp() <= over + 60
    assert len(models.asked) == 2


async def test_who_has_rested_goes_on_by_himself(loom: Loom, tmp_path: Path) -> None:
    house = House(loom, tmp_path, agent("claude"))
    task = await loom.create("A")
    resets: list[float] = []

    def script(request: Request) -> Turn:
        if not resets:
            resets.append(time.time() + 4)
            return used_up(resets[0])
        assert time.time() >= resets[0]
        return say("Reported.") if request.results else mcp("loom_done", task_id=task.id)

    with house.working(script, login=True) as (working, _):
        out, _ = await asyncio.to_thread(working.communicate, timeout=240)
    found = await task_now(loom, task)
    assert (working.returncode, found.status, found.attempt) == (0, "done", 1), out


@pytest.mark.parametrize("there", [True, False], ids=["an error", "nobody there"])
async def test_a_provider_that_is_away_costs_no_attempt(there: bool, house: House) -> None:
    task = await house.loom.create("A")
    url = None if there else "http://127.0.0.1:9"  # the port for what is discarded, where nothing listens
    with house.working(Script(error(500, "api_error", "Internal server error")), url=url) as (working, _):
        await house.rests(task)
        working.send_signal(signal.SIGTERM)
        await asyncio.to_thread(working.communicate, timeout=60)


async def test_who_is_not_logged_in_stops_and_no_task_suffers(house: House) -> None:
    tasks = [await house.loom.create(title) for title in "AB"]
    status, printed, _ = await house.work(error(401, "authentication_error", "invalid x-api-key"))
    assert status == 1
    assert f"{house.agent.name} cannot work: " in printed
    assert "log in" in printed or "login" in printed
    for task in tasks:
        found = await task_now(house.loom, task)
        assert (found.status, found.attempt) == ("pending", 0)


async def test_what_an_agent_leaves_behind_is_ended(house: House) -> None:
    (house.place / "leave.sh").write_text(
        f"setsid sleep 300 >/dev/null 2>&1 &\necho $! >> {house.place}/started\nsetsid sleep 300 >/dev/null 2>&1 &\n"
    )
    house.git("add", "leave.sh")
    house.git("commit", "-q", "-m", "Leave")
    mine = house.home / ".loom" / "config.yaml"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text('work: {allow: ["sh leave.sh"]}\n')
    task = await house.loom.create("A")
    turns = run("sh leave.sh"), mcp("loom_done", task_id=task.id), say("It is done.")
    status, printed, _ = await house.work(*turns)
    assert status == 0, printed
    if house.agent.name == "claude":  # Codex' sandbox lets nothing be written there
        assert len(pids(house.place / "started")) == 1
    assert not any(map(alive, pids(house.place / "started")))
    assert not [one for one in Path("/proc").glob("[0-9]*") if _mark(one, task.id)]


def _mark(process: Path, task_id: str) -> bool:
    """Whether a process was started for a task."""
    try:
        return f"LOOM_TASK_ID={task_id}\0".encode() in (process / "environ").read_bytes()
    except OSError:
        return False
