"""What people see, recorded: each screen on a terminal of 80 columns and in a pipe, as files in `screens/`.

`uv run pytest tests/cli/test_screens.py -n 0 --write-screens` writes them anew; read what has changed, then keep it.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom.cli import listing, output
from loom.db.connection import Pool
from loom.graph.front import Loom
from tests.cli.conftest import Cli

SCREENS = Path(__file__).parent / "screens"
FIXED = "2026-01-02 03:04:05"

DETAILS = """\
The reader takes **one token** at a time; what it cannot take it names with its line, so that somebody who wrote three
hundred of them finds the one.

- numbers, with a sign
- names, which may have dots in them and go on for longer than a terminal is wide, as this point does

| token | example |
|---|---|
| number | -12 |

```python
def token(text: str) -> Token: ...  # a line of code is left as it is, however long it is and wherever words end
```
"""


@pytest.fixture
async def project(cli: Cli, loom: Loom, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project in the middle of its work, with ids and times that are the same each time. Returns the task that is
    shown."""
    numbers = itertools.count(1)
    monkeypatch.setattr("loom.ids.task_id", lambda: f"loom-{next(numbers):08x}")
    monkeypatch.setattr("loom.graph.store.escalations.secrets.token_hex", lambda _: f"{next(numbers):08x}")
    (cli.directory / ".loom" / "config.yaml").write_text(f"project_name: shop\nproject_id: {loom.project_id}\n")
    parser = await loom.create("Parser", epic=True, priority="p0")
    lexer = await loom.create("Split the text into tokens", parent_id=parser.id, labels=["area:parser"])
    reader = await loom.create(
        "Read tokens one at a time, and say in which line the one stands that cannot be read", parent_id=parser.id,
        depends_on=[lexer.id], done_when="A file with 300 tokens is read.", files=["src/reader.py"],
        context={"details": DETAILS, "origin": {"tool": "beads", "id": "bd-7"}},
    )  # fmt: skip
    await loom.create("Print errors", parent_id=parser.id, depends_on=[reader.id], labels=["later"])
    release = await loom.create("Release", epic=True, depends_on=[parser.id])
    await loom.create("Write the notes", parent_id=release.id)
    await loom.create("Look at 数据库 and mirror", priority="p2")
    finished = [await loom.create(f"Finished {number}") for number in range(6)]
    for one in finished:
        await loom.claim(one.id, agent_id="ada")
        await loom.done(one.id, {"summary": "as it should be"}, agent_id="ada")
    asks, dies, tried = [await loom.create(title) for title in ("Connect", "Upload", "Download")]
    await loom.escalate(asks.id, "Which network is it to be?", agent_id="bob")
    await loom.fail(dies.id, "There is no server of that name.", retry=False, agent_id="bob")
    await loom.create("Compare what was uploaded", depends_on=[dies.id])
    await loom.fail(tried.id, "It took too long.", agent_id="bob")
    await loom.claim(lexer.id, agent_id="ada")
    await loom.update(reader.id, title=reader.title, priority="p0", labels=["area:parser"])
    await pool.execute(
        f"""
        update tasks set created_at = now() - interval '50 hours', updated_at = now() - interval '5 hours',
               ready_at = case when ready_at is not null then now() - interval '5 hours' end,
               claimed_at = case when claimed_at is not null then now() - interval '3 hours 5 minutes' end,
               done_at = case when done_at is not null then now() - interval '2 hours' end,
               retry_at = case when retry_at is not null then timestamptz '{FIXED}+00' + interval '10 years' end,
               lease_expires_at = case when lease_expires_at is not null then now() + interval '280 seconds' end;
        update escalations set raised_at = now() - interval '4 hours 5 minutes';
        update events set created_at = timestamptz '{FIXED}+00';
        """
    )
    return reader.id


def same(text: str) -> str:
    """Without what is another each time."""
    text = re.sub(r"\b(?!2026-01-02|2036-01-02)\d{4}-\d\d-\d\d (?=\d\d:\d\d:\d\d)", "", text)
    text = re.sub(r"(?<!-02 )\b\d\d:\d\d:\d\d\b", "12:34:56", text)
    return re.sub(r"in the last .*", "in the last while", text)


def printed(cli: Cli, words: list[str], width: int | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command prints, on a terminal of so many columns or into a pipe."""
    for module in (output, listing):
        monkeypatch.setattr(module, "columns", lambda: width)
    result = cli.inside(*words, TZ="UTC")
    assert result.code == 0, result.err
    return result.out


@pytest.fixture
def utc() -> Iterator[None]:
    """Times as they are told there, wherever the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


async def test_the_screens_are_as_they_were_recorded(
    cli: Cli, project: str, utc: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {
        "status": ["status"],
        "list": ["list"],
        "show": ["show", project],
        "history": ["history", project],
        "stats": ["stats", "--by", "agent"],
        "ready": ["ready"],
        "graph": ["graph"],
        "dead-letter": ["dead-letter", "list"],
        "watch": ["watch", "--since", "36000d", "--no-follow"],
    }
    wrong = []
    for name, words in commands.items():
        for kind, width in (("80", 80), ("pipe", None)):
            shown = same(printed(cli, words, width, monkeypatch))
            if width is not None:
                assert max(map(output._width, shown.splitlines())) <= 80 or name == "show", shown
            file = SCREENS / f"{name}.{kind}.txt"
            if request.config.getoption("--write-screens"):
                SCREENS.mkdir(exist_ok=True)
                file.write_text(shown)
            elif not file.exists() or file.read_text() != shown:
                wrong.append(f"--- {file.name}\n{shown}")
    assert not wrong, "\n".join(wrong)
