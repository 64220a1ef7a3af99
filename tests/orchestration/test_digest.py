"""The digest of a day: what is in it, that it is written once, whole, and that nothing in it is more than text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from loom import files
from loom.config import LoomConfig, ReceiverConfig
from loom.db.connection import Pool
from loom.graph.front import Loom
from loom.orchestration.notices import digest
from loom.orchestration.notices.receivers import of_project
from tests.cli.conftest import Cli, bare, cli
from tests.conftest import Opener

__all__ = ["bare", "cli"]

Clock = Callable[[float], Awaitable[None]]
DAY = 86400.0

HOSTILE = [
    "[[Other note]] ![[embedded]] [x](https://evil) ![i](https://evil/p.png) <img src=x onerror=alert(1)> <b>",
    "`= dv.current()` ``code`` $= 1 $ <% tp.system.prompt() %> {{title}} ```dataviewjs",
    "#tag key:: value [key:: value] %%comment%% ==mark== ~~gone~~ ^block | a | b *x* _y_ __z__ \\\\ &lt; &#60;b>",
    "1. list - [ ] task > quote # heading --- *** ::: !!! note",
    "- item", "+ item", "2) item", "# head", "> quote", "---", "===", "    code", "| a | b |", "[^1]: note", ":: x",
]  # fmt: skip


def vault(config: LoomConfig, directory: Path) -> LoomConfig:
    return replace(config, notify={"vault": ReceiverConfig(obsidian=str(directory))})


async def look(loom: Loom, config: LoomConfig) -> float:
    return await digest.Diary(loom, of_project(config)).look()


async def today(pool: Pool) -> date:
    found = await pool.fetchval("select loom_now()")
    return found.astimezone().date()  # type: ignore[no-any-return]


async def worked(loom: Loom) -> None:
    """A day on which something was done, failed and asked."""
    done = await loom.create("Write the parser", agent_id="ann")
    claim = await loom.claim(done.id, agent_id="ann")
    assert claim is not None
    usage = {"input_tokens": 1_200_000, "output_tokens": 34_000, "cost_usd": 4.2}
    await loom.note_attempt(done.id, claim.task.claim_token, {"usage": usage}, agent_id="ann")
    await loom.done(done.id, agent_id="ann")
    asked = await loom.create("Choose")
    await loom.claim(asked.id)
    await loom.escalate(asked.id, "Tabs or spaces? password=hunter2")


async def test_a_day_says_what_was_done_by_whom_at_what_cost_and_what_waits(loom: Loom, pool: Pool) -> None:
    await worked(loom)
    day = await today(pool)
    found = await digest.of_day(loom, day)
    page = digest.markdown(found)
    (done,) = found.done
    (raised,) = await loom.escalations()
    assert page == (
        f"---\nloom_project: {loom.project_id}\ndate: {day}\n---\n# test, {day}\n\n"
        "1 tasks done, 2 created, 2 claimed.\n\n## Done\n\n"
        f"- {done.id} Write the parser, by ann in 0 min\n\n## Cost, as far as workers told\n\n"
        "| agent | attempts | tokens | US dollars |\n|---|---:|---:|---:|\n| ann | 1 | 1,234,000 | 4.20 |\n\n"
        f"## Waits for you\n\n- question {raised.id}, Choose: Tabs or spaces? password&#61;&#42;&#42;&#42;\n"
    )
    assert (await digest.of_day(loom, day - timedelta(days=1))).empty


async def test_a_day_is_written_once_it_is_over_by_one_process(
    loom: Loom, open_loom: Opener, clock: Clock, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = vault(loom.config, tmp_path)
    await look(loom, config)  # of the day before, on which there was nothing
    assert await look(loom, config) <= 3600
    await worked(loom)
    day = await today(pool)
    assert list(tmp_path.iterdir()) == []
    await clock(DAY)
    written = 0
    write = files.write

    def counted(path: Path, text: str) -> None:
        nonlocal written
        written += 1
        write(path, text)

    monkeypatch.setattr(files, "write", counted)
    others = [await open_loom(f"agent{number}") for number in range(4)]
    for _ in range(3):
        await asyncio.gather(*(look(other, config) for other in others))
    (file,) = tmp_path.iterdir()
    assert written == 1
    assert file.name == f"{day} test {loom.project_id[:4]}.md"
    assert "Write the parser" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


async def test_days_that_nobody_was_there_for_are_written_afterwards(
    loom: Loom, clock: Clock, tmp_path: Path, pool: Pool
) -> None:
    config = vault(loom.config, tmp_path)
    await look(loom, config)
    first = await today(pool)
    await loom.create("A")
    await clock(3 * DAY)
    await loom.create("B")
    await clock(2 * DAY)
    while await look(loom, config) == 0:
        pass
    assert sorted(file.name[:10] for file in tmp_path.iterdir()) == [str(first), str(first + timedelta(days=3))]
    await loom.create("C")
    await clock(20 * DAY)
    while await look(loom, config) == 0:
        pass
    assert len(list(tmp_path.iterdir())) == 2, "a day so long ago is let be"


async def test_a_directory_that_is_not_there_is_tried_again(
    loom: Loom, clock: Clock, tmp_path: Path, pool: Pool
) -> None:
    config = vault(loom.config, tmp_path / "vault")
    await look(loom, config)
    await worked(loom)
    await clock(DAY)
    assert await look(loom, config) > 1
    assert (
        await pool.fetchval("select error from notify_cursors") == "The digest cannot be written: it is no directory."
    )
    assert not (tmp_path / "vault").exists(), "what is not mounted is not made"
    (tmp_path / "vault").mkdir()
    assert await look(loom, config) > 1, "it rests"
    await clock(3600)
    while await look(loom, config) == 0:
        pass
    assert len(list((tmp_path / "vault").iterdir())) == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_what_agents_write_is_text_in_markdown_and_nothing_else(text: str) -> None:
    for place in ("- loom-1 {}", "# {}", "| {} | 1 |", "{}"):
        source = place.format(digest.inert(text))
        tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(source)
        inner = [child for token in tokens for child in token.children or ()]
        assert {child.type for child in inner} <= {"text", "text_special"}, source
        shown = "".join(child.content for child in inner)
        assert " ".join(text.split()) in shown
        for sign in ("[[", "<", "`", "$", "%%", "::", "{{", "#", "==", "^"):
            assert sign not in source.replace("&#", "").removeprefix("#"), "no extension finds its sign"


def test_the_command_prints_it_and_writes_it_when_it_is_told_to(cli: Cli, tmp_path: Path) -> None:
    task = cli.create("A")
    cli.ok("done", task)
    assert f"- {task} A, by tester in 0 min" in cli.inside("digest").out
    found = cli.ok("digest")
    assert (found["done_count"], found["done"][0]["id"], found["events"]["task.done"]) == (1, task, 1)
    assert cli.ok("digest", "--day", "2026-01-31")["done_count"] == 0
    refused = cli.inside("digest", "--day", "yesterday")
    assert (refused.code, "--day is 'yesterday', which is no day." in refused.err) == (2, True)
    for beyond in ("0001-01-01", "9999-12-31"):
        assert cli("digest", "--day", beyond).code == 2
    assert "`notify` names no directory" in cli.inside("digest", "--write").err
    home = Path(cli.env["HOME"]) / ".loom"
    home.mkdir(exist_ok=True)
    (home / "config.yaml").write_text(json.dumps({"notify": {"vault": {"obsidian": str(tmp_path / "gone")}}}))
    assert "cannot be written" in cli.inside("digest", "--write").err
    (tmp_path / "gone").mkdir()
    (file,) = cli.ok("digest", "--write")["files"]
    assert Path(file).read_text() == cli.inside("digest").out
