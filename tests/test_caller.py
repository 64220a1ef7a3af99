"""What is done on behalf of a caller goes by his variables and his place, and not by those of the process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loom import caller, process
from loom.caller import Caller, calling
from loom.config import load_config
from loom.config.inside import inside_run
from loom.exceptions import ClaimConflictError
from loom.graph.model.principals import Principal, Role
from loom.graph.session import default_agent
from loom.process import guard
from tests.conftest import Opener

PROJECT_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


async def test_a_caller_is_served_with_his_own_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_AGENT_ID", "the-process")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "its-key")
    (tmp_path / "shop" / ".loom").mkdir(parents=True)
    (tmp_path / "shop" / ".loom" / "config.yaml").write_text(f"project_id: {PROJECT_ID}\n")
    ann = Caller({"LOOM_AGENT_ID": "ann", "LOOM_PROJECT_DIR": "shop", "LOOM_CLAIM_TTL": "77"}, directory=tmp_path)
    bob = Caller({"CLAUDE_CODE_SESSION_ID": "12345678-9"}, directory=tmp_path / "shop")

    async def seen(who: Caller) -> tuple[str, Path | None, int, str | None]:
        with calling(who):
            await asyncio.sleep(0)
            config = await asyncio.to_thread(load_config)
            environment = await asyncio.create_task(asyncio.to_thread(process.environment))
        ttl = config.orchestration.claim_ttl_seconds
        with calling(who):
            return default_agent(config), config.project_dir, ttl, environment.get("ANTHROPIC_API_KEY")

    of_ann, of_bob = await asyncio.gather(seen(ann), seen(bob))
    assert of_ann == ("ann", (tmp_path / "shop").resolve(), 77, None)
    assert of_bob == ("claude-12345678", (tmp_path / "shop").resolve(), 600, None)
    assert caller.environ() is os.environ
    assert default_agent(load_config(tmp_path)) == "the-process"
    (tmp_path / "shop" / "key").write_text("anns")
    with calling(Caller({"LOOM_SKILLS_API_KEY_FILE": "shop/key"}, directory=tmp_path)):
        assert load_config().skills_api_key == "anns"
    assert "its-key" not in repr(Caller({"ANTHROPIC_API_KEY": "its-key"}))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_whoever_is_served_from_inside_a_run_is_known_whatever_he_says() -> None:
    assert not inside_run()
    with calling(Caller({guard.MARK: "a.1."})):
        assert inside_run()
    # A process of a run whose parent alone has the mark; it says nothing of it.
    marked = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(flush=True); input()'], env={})"
    command = [sys.executable, "-c", "import os; print(os.getpid(), flush=True); input()"]
    run = dict(os.environ) | {guard.MARK: "a.1."}
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=run) as inside,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as outside,
        subprocess.Popen(
            [sys.executable, "-c", marked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=run
        ) as above,
    ):
        assert inside.stdout is not None
        assert outside.stdout is not None
        assert above.stdout is not None
        pid, other = int(inside.stdout.readline()), int(outside.stdout.readline())
        above.stdout.readline()
        children = Path(f"/proc/{above.pid}/task/{above.pid}/children").read_text().split()
        for one, expected in ((pid, True), (int(children[0]), True), (other, False)):
            with calling(Caller({}, pid=one)):
                assert inside_run() is expected, one
        for running in (inside, outside, above):
            running.communicate(b"\n")


async def test_fronts_beside_each_other_share_their_connections_and_nothing_else(open_loom: Opener) -> None:
    first = await open_loom("first")
    ann = first.beside(agent="ann")
    bob = first.beside(principal=Principal("bob", Role.WORKER))
    assert (first.agent, ann.agent, bob.agent) == ("first", "ann", "bob")
    assert first.links is ann.links is bob.links
    await first.create("One")
    first.committed.clear()
    await first.create("Two")
    assert ann.committed.is_set()
    one, two = await ann.claim(), await bob.claim()
    assert one is not None
    assert two is not None
    assert {one.task.title, two.task.title} == {"One", "Two"}
    assert [task.id for task in await ann.end_session()] == [one.task.id]
    await ann.close()
    assert (await bob.get(two.task.id)).task.assignee == "bob"
    with pytest.raises(ClaimConflictError):
        await first.claim(two.task.id)


def test_a_principal_owns_its_name_and_what_is_below_it() -> None:
    bob = Principal("bob", Role.WORKER)
    assert bob.owns("bob")
    assert bob.owns("bob/two")
    assert not bob.owns("bobby")
    assert Role.READER < Role.WORKER < Role.PLANNER < Role.ADMIN
