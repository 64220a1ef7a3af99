"""`loom edit`, at a terminal of its own, with editors that are scripts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

TRICKY = {"text": "two\nlines: # of it\n", "no": "no", "number": "1.0", "deep": [{"a": None}], "time": "2026-01-01"}


def edited(
    cli: Cli, task: str, editor: str, tmp_path: Path, answer: str | signal.Signals = "n\n", **env: str
) -> tuple[int, str]:
    """The exit status and what was shown; `answer`: to whether it is to be edited again, or a signal instead."""
    script = tmp_path / "editor"
    script.write_text(f"#!/bin/sh\n{editor}\n")
    script.chmod(0o755)
    ours, theirs = os.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "loom", "edit", task],
        cwd=cli.directory,
        env=cli.env | {"EDITOR": str(script), "VISUAL": "", "TMPDIR": str(tmp_path), "PYTHON": sys.executable} | env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):
        while more := os.read(ours, 4096):
            shown += more
            if shown.rstrip().endswith(b"[Y/n]:"):
                command.send_signal(answer) if isinstance(answer, int) else os.write(ours, answer.encode())
    os.close(ours)
    assert b"Traceback" not in shown
    return command.wait(60), shown.decode()


def kept(tmp_path: Path) -> list[Path]:
    return [*tmp_path.glob("loom-*.yaml")]


def test_a_task_is_changed_as_a_whole(cli: Cli, tmp_path: Path) -> None:
    import json

    epic = cli.create("Epic", "--epic")
    task = cli.create("Task", "--context", json.dumps(TRICKY), "--label", "ui", "--done-when", "It works.")
    changes = [
        "s/^title: .*/title: Better/", "s/^- ui/- web/", f"s/^parent_id:.*/parent_id: {epic}/",
        "s/^done_when: .*/done_when: |\\n  It works\\n  twice./",
    ]  # fmt: skip
    code, shown = edited(cli, task[5:], "\n".join(f"sed -i.old '{one}' \"$1\"" for one in changes), tmp_path)
    assert (code, kept(tmp_path)) == (0, []), shown
    now = cli.ok("show", task)
    assert (now["title"], now["labels"], now["parent_id"]) == ("Better", ["web"], epic)
    assert (now["done_when"], now["context"]) == ("It works\ntwice.", TRICKY)
    code, shown = edited(cli, task, "true", tmp_path)
    assert code == 0
    assert "Nothing was changed." in shown


def test_what_does_not_hold_changes_nothing_and_is_not_lost(cli: Cli, tmp_path: Path) -> None:
    task = cli.create("Task")
    editor = "sed -i.old -e 's/^title: .*/title: Better/' -e 's/^priority: .*/priority: p7/' \"$1\""
    code, shown = edited(cli, task, editor, tmp_path)
    assert code == 1
    assert "“p7” does not exist" in shown
    (path,) = kept(tmp_path)
    assert str(path) in re.sub(r"\s", "", shown)
    assert "title: Better" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert cli.ok("show", task)["title"] == "Task"


@pytest.mark.parametrize("field", ["title", "priority"])
def test_what_a_task_cannot_be_without_is_not_taken_away(cli: Cli, tmp_path: Path, field: str) -> None:
    task = cli.create("Task")
    code, shown = edited(cli, task, f"sed -i.old 's/^{field}: .*/{field}:/' \"$1\"", tmp_path)
    assert code == 1
    assert re.search(f"{field} .*(is empty|does not exist)", shown)
    (path,) = kept(tmp_path)
    assert f"\n{field}:\n" in path.read_text()


@pytest.mark.parametrize(("editor", "said"), [("exit 3", "Editing failed"), (None, "No closing quotation")])
def test_an_editor_that_fails_loses_nothing(cli: Cli, tmp_path: Path, editor: str | None, said: str) -> None:
    task = cli.create("Task")
    write = "sed -i.old 's/^title: .*/title: Better/' \"$1\"\n"
    given = {"EDITOR": "vi '"} if editor is None else {}
    code, shown = edited(cli, task, f"{write}{editor}", tmp_path, **given)
    (path,) = kept(tmp_path)
    assert (code, said in shown, str(path) in re.sub(r"\s", "", shown)) == (1, True, True)
    assert "Set one that works here" in shown
    assert ("title: Better" in path.read_text()) == (editor is not None)
    assert cli.ok("show", task)["title"] == "Task"


@pytest.mark.parametrize(("answer", "status"), [("\4", 1), (signal.SIGINT, 130)])
def test_who_breaks_off_is_told_where_his_text_is(
    cli: Cli, tmp_path: Path, answer: str | signal.Signals, status: int
) -> None:
    task = cli.create("Task")
    code, shown = edited(
        cli, task, "sed -i.old 's/^title: .*/title: Better/; s/^priority: .*/priority: p7/' \"$1\"", tmp_path, answer
    )
    (path,) = kept(tmp_path)
    assert (code, str(path) in re.sub(r"\s", "", shown)) == (status, True)


def test_what_somebody_else_has_changed_meanwhile_is_not_overwritten(cli: Cli, tmp_path: Path) -> None:
    task = cli.create("Task")
    theirs = f'"$PYTHON" -m loom update {task} --title Theirs --label ui > /dev/null'
    code, shown = edited(cli, task, f"{theirs}\nsed -i.old 's/^title: .*/title: Mine/' \"$1\"", tmp_path)
    assert code == 1
    assert f"Somebody else has changed title of {task} meanwhile." in re.sub(r"\s+", " ", shown)
    assert cli.ok("show", task)["title"] == "Theirs"
    other = f'"$PYTHON" -m loom update {task} --priority p0 > /dev/null'
    code, _ = edited(cli, task, f"{other}\nsed -i.old 's/^title: .*/title: Mine/' \"$1\"", tmp_path)
    now = cli.ok("show", task)
    assert (code, now["title"], now["priority"]) == (0, "Mine", "p0")


def test_what_cannot_be_changed_is_told_before_an_editor_opens(cli: Cli, tmp_path: Path) -> None:
    task = cli.create("Task")
    cli.ok("done", task)
    code, shown = edited(cli, task, f"touch {tmp_path}/opened", tmp_path)
    assert (code, "is already done and cannot be changed" in shown, kept(tmp_path)) == (1, True, [])
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("sign", ["KILL", "TERM", "INT"])
def test_an_editor_that_is_killed_loses_nothing(cli: Cli, tmp_path: Path, sign: str) -> None:
    task = cli.create("Task")
    code, shown = edited(cli, task, f"sed -i.old 's/^title: .*/title: Better/' \"$1\"\nkill -{sign} $$", tmp_path)
    (path,) = kept(tmp_path)
    assert (code, str(path) in re.sub(r"\s", "", shown)) == (1, True)
    assert "title: Better" in path.read_text()
    assert cli.ok("show", task)["title"] == "Task"


def test_only_a_person_edits(cli: Cli) -> None:
    task = cli.create("Task")
    piped = cli("edit", task)
    assert piped.code == 2
    assert "edit needs a terminal" in piped.err
    inside = cli("edit", task, LOOM_RUN="1")
    assert inside.code == 1
    assert "inside a run" in inside.err
