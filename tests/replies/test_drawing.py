"""Charts: whatever a title says, it is text to Mermaid."""

from __future__ import annotations

import html
import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loom.graph.model.task import Priority, Task, TaskStatus
from loom.graph.store.graphs import GraphView
from loom.replies import drawing

TITLES = (
    "%%{init:{'themeCSS':'*{display:none}'}}%%",
    '%%{init: {"theme": "dark"}}%% and',
    "%% a comment",
    "---",
    "a `word` and `**bold**`",
    "`_all_ of it`",
    "click loom_1 callback",
    "end",
    "#quot; #35; &quot; &#34; &amp;",
    'say "hi"]; click loom_1 "javascript:alert(1)"',
    'back\\slash \\n \\" x',
    "--> x] --> y",
    "<script>alert(1)</script> <img src=x onerror=alert(1)> <br/>",
    "$$x^2$$",
    "fa:fa-car car",
    "@{ shape: x }",
    "style x:#fff;",
    "classDef a:b#c;",
    "ﬂ°°60¶ßb ﬂ°quot¶ß",
    "1. a list",
    "http://example.org",
)
SIGNS = "%{}`\"\\<>&#;:$@()[]|_*~^-=/'! "
PIECES = (*TITLES, *SIGNS, "35;", "$$", "fa:fa-x", "ﬂ°°", "¶ß", "end", "style", "é", "کا", "🔥")


IDS = ("loom-00000001", "loom-00000002", "loom-00000003")
AT = datetime(2026, 1, 1, tzinfo=UTC)


def task(number: int, title: str, status: TaskStatus, parent: str | None = None) -> Task:
    return Task(IDS[number], "p", title, status, Priority.P1, 1, AT, AT, parent_id=parent)


def chart(title: str) -> str:
    """An epic with a task, both of this title, and another task that waits for that one."""
    inner, plain = task(1, title, TaskStatus.PENDING, IDS[0]), task(2, "plain", TaskStatus.BLOCKED)
    return drawing.mermaid(GraphView([task(0, title, TaskStatus.EPIC), inner, plain], [(IDS[2], IDS[1], False)]))


def mixtures(number: int) -> list[str]:
    """Titles at random, the same ones each time."""
    draw = random.Random(3)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 12)))[:60].strip() or "x" for _ in range(number)]


@pytest.mark.parametrize("title", [*TITLES, *mixtures(50)])
def test_a_title_is_spelled_so_that_nothing_in_it_means_anything(title: str) -> None:
    label = re.search(r'loom_00000002\["loom-00000002<br/>(.*)"\]:::pending$', chart(title), re.MULTILINE)
    assert label
    assert not re.search(r'[%{}`"<>\\@:]|\$\$|&(?!amp;|quot;|lt;|gt;)|#(?!\d+;)', label[1])
    spelled = html.unescape(re.sub(r"#(\d+);", lambda found: chr(int(found[1])), label[1]))
    assert spelled.replace("\u2060", "") == title[:60]


@pytest.mark.timeout(300)
def test_titles_are_text_to_mermaid_itself() -> None:
    titles = [" ".join(one.split()) for one in (*TITLES, *mixtures(60))]
    for title, seen in zip(titles, drawn([chart(one) for one in titles]), strict=True):
        labels = sorted(" ".join(one.replace("\u2060", "").split()) for one in seen["labels"])
        assert labels == [f"{IDS[0]} {title}", f"{IDS[1]} {title}", f"{IDS[2]} plain"], title
        assert (seen["config"], seen["odd"], seen["shapes"]) == ({}, 0, [2, 1, 1]), title


def drawn(charts: Sequence[str]) -> list[dict[str, Any]]:
    """What Mermaid makes of charts."""
    place = os.environ.get("LOOM_TEST_MERMAID", "")
    if not place or not shutil.which("node"):
        pytest.skip("needs node, and LOOM_TEST_MERMAID: a directory where npm has installed mermaid and jsdom")
    script = Path(__file__).with_name("mermaid.mjs").read_text()
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        cwd=place, input=json.dumps(charts), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
