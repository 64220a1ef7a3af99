"""What `--json` answers with is what docs/commands.md says, command by command."""

from __future__ import annotations

import re
from typing import Any

from tests.cli.conftest import Cli
from tests.pages import DOCS

SECTION = DOCS["docs/commands.md"].partition("## Answers in JSON")[2]
ROWS = dict(re.findall(r"^\| (.+?) \| (.+) \|$", SECTION, re.MULTILINE))


def told(command: str) -> list[tuple[set[str], set[str]]]:
    """The ways in which a command answers: what is there each time, and what may be."""
    (row,) = [row for names, row in ROWS.items() if f"`{command}`" in names]
    ways = []
    for way in re.split(r"; (?:with|of) [^`]*?(?=`)", row):
        bracketed = " ".join(re.findall(r"\[(.*?)\]", way))
        always = re.sub(r"\[.*?\]", "", way)
        ways.append((set(re.findall(r"`(\w+)`", always)), set(re.findall(r"`(\w+)`", bracketed))))
    return ways


def test_each_answer_has_what_the_page_says(cli: Cli) -> None:
    wrong, seen = [], set[str]()

    def ask(command: str, *words: str, stdin: str = "") -> dict[str, Any]:
        found = cli.inside(*command.replace(" TASK", "").split(), *words, "--json", stdin=stdin).json
        keys = found.keys() - {"schema"}
        seen.add(command)
        if not any(always <= keys <= always | maybe for always, maybe in told(command)):
            wrong.append(f"{command}: {' '.join(found)}")
        return found

    epic = ask("create", "Epic", "--epic")["id"]
    first = ask("create", "First", "--parent", epic, "--label", "ui")["id"]
    ask("create", "Second", "--depends-on", first)
    ask("create", "-", stdin="Third\nFourth\n")
    ask("import", "-", stdin="tasks: [{title: Fifth, files: [a.py], done_when: It is so.}]")
    ask("note", first, "Look at this.")
    ask("message", "bob", "Hello")
    ask("inbox", "--agent", "bob")
    ask("claim", first, "--agent", "ada")
    ask("heartbeat", "--agent", "ada")
    ask("update", first, "--priority", "p0")
    ask("release", first, "--agent", "ada")
    ask("fail", first, "--reason", "no luck")
    ask("resolve", first, "retry")
    ask("escalate", first, "Which?")
    ask("status --view escalations")
    ask("resolve", first, "answer", "--note", "That one.")
    ask("fail", first, "--reason", "no luck", "--no-retry")
    for command in (
        "status",
        "status --view agents",
        "status --view dead_letters",
        "dead-letter list",
        "stuck",
        "graph",
    ):
        ask(command)
    ask("dead-letter retry", first)
    ask("done", first, "--output", "{}")
    ask("reopen", first)
    ask("defer", first)
    for command in ("show", "status TASK", "history"):
        ask(command, first)
    ask("show", first, epic)
    ask("cancel", first)
    logs = cli.directory / ".loom" / "logs"
    logs.mkdir()
    (logs / f"{first}-1.log").write_text("said\n")
    ask("logs", first)
    ask("graph --format json")
    ask("graph --format mermaid")
    ask("watch", "--no-follow", "--limit", "1")
    ask("wait", "--timeout", "0")
    ask("claim", "--agent", "bob")
    ask("search", "fifth")
    ask("help", "faq")
    ask("help", "show")
    for command in (
        "ready", "list", "stats", "landing", "doctor", "config show", "project list", "token list",
        "skill list", "workflow list", "workflow status", "metrics", "notify list", "help",
    ):  # fmt: skip
        ask(command)
    while "token" in ask("claim"):
        pass
    assert not wrong, "\n".join(wrong)
    assert {name for names in ROWS for name in re.findall(r"`(.+?)`", names)} - seen == {
        "dead-letter cancel", "check", "land", "worktree list"
    }, "which have tests of their own, in a repository"  # fmt: skip
