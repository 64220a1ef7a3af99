"""Completion in the real shells: at a terminal, for who types and presses Tab, with no Loom and no Python in reach."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from loom.cli.completion import script
from tests.cli.conftest import Cli

HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "%F{red}%{\\e[31m%} %n",
    "a:b\\tc $HOME ~ * [a-z] {1..3} !! (touch pwned)",
)
WAIT = 30.0  # seconds for what takes a moment
SHELLS = {
    "bash": ["bash", "--noprofile", "--norc", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
READY = "ready> "


def shell(name: str) -> list[str]:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not on PATH")
    return SHELLS[name]


@pytest.fixture
def tools(tmp_path: Path) -> str:
    """A PATH of what the scripts may use."""
    place = tmp_path / "tools"
    place.mkdir()
    for name in ("grep", "touch", "uname", "mkdir", "cat", "tput", "ls"):
        if found := shutil.which(name):
            (place / name).symlink_to(found)
    for name in SHELLS:
        if found := shutil.which(name):
            (place / name).symlink_to(found)
    return str(place)


@contextmanager
def terminal(name: str, env: dict[str, str], directory: Path) -> Iterator[int]:
    """A shell at a terminal, that has read its script; ends with it."""
    text = directory.parent / f"completion.{name}"
    text.write_text(script(name))
    child, ours = pty.fork()
    if child == 0:
        os.chdir(directory)
        os.execvpe(SHELLS[name][0], SHELLS[name], env)
    try:
        begin = {
            "bash": "bind 'set page-completions off'; bind 'set completion-query-items 0'; PS1='ready> '; ",
            "zsh": "autoload -Uz compinit; compinit -D -u; unsetopt beep; PS1='ready> '; ",
            "fish": "function fish_prompt; echo -n 'ready> '; end; ",
        }[name]
        os.write(ours, f"{begin}source {text}\n".encode())
        until(ours, lambda shown: shown.rstrip().endswith(READY.strip()) and "source" in shown)
        yield ours
    finally:
        os.kill(child, 9)
        os.close(ours)
        os.waitpid(child, 0)


def until(fd: int, seen: object) -> str:
    """What is printed until that is seen."""
    assert callable(seen)
    end, shown = time.monotonic() + WAIT, ""
    while time.monotonic() < end:
        if select.select([fd], [], [], 0.2)[0]:
            shown += os.read(fd, 65536).decode(errors="replace")
        plain = re.sub(r"\x1b(\[[0-9;?>=]*[A-Za-z]|\][^\x07]*\x07|[=>()][0B]?)", "", shown)
        if seen(plain):
            return plain
    raise AssertionError(f"not seen in {shown!r}")


@pytest.fixture
def home(cli: Cli, tools: str) -> dict[str, str]:
    """The environment of somebody whose commands have left names."""
    env = {name: value for name, value in cli.env.items() if name in ("HOME", "LANG")}
    return env | {"PATH": tools, "TERM": "xterm", "HOME": cli.env["HOME"]}


def names(cli: Cli) -> Path:
    project = str(cli.ok("status")["project_id"])
    return Path(cli.env["HOME"]) / ".local" / "state" / "loom" / project / "completion"


def at_a_terminal(cli: Cli, *words: str) -> None:
    """A command whose standard error is a terminal."""
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "loom", *words], cwd=cli.directory, env=cli.env, stderr=theirs, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)


def test_commands_at_a_terminal_leave_the_names_for_this_user_alone(cli: Cli) -> None:
    first = cli.create(HOSTILE[0])
    assert not names(cli).exists(), "nobody was there"
    at_a_terminal(cli, "ready")
    kept = names(cli)
    assert (kept / "tasks").read_text() == f"{first}\t{HOSTILE[0]}\n"
    assert "summarize_graph\t" in (kept / "skills").read_text()
    assert (kept / "workflows").read_text()
    assert (kept.stat().st_mode & 0o777, (kept / "tasks").stat().st_mode & 0o777) == (0o700, 0o600)
    at_a_terminal(cli, "create", HOSTILE[-1])
    assert len((kept / "tasks").read_text().splitlines()) == 2, "who changes something sees it at once"
    late, unseen = cli.create("made by an agent"), cli.create("and not shown")
    soon = time.time() + 600
    os.utime(kept / "tasks", (soon, soon))  # so that it is fresh, however long this takes
    at_a_terminal(cli, "show", late)
    found = (kept / "tasks").read_text()
    assert (f"{late}\tmade by an agent\n" in found, unseen in found) == (True, False), "what was shown is known at once"
    (kept / "tasks").unlink()
    (kept / "tasks").mkdir()
    at_a_terminal(cli, "ready")


def test_a_skill_is_known_to_the_next_command_at_a_terminal(cli: Cli) -> None:
    at_a_terminal(cli, "ready")
    kept, skills = names(cli), cli.directory / ".loom" / "skills"
    one = "---\nname: {}\ndescription: {}\ninputs: {{}}\noutputs: {{type: object}}\n---\nSay it.\n"
    skills.mkdir()
    (skills / "poem.md").write_text(one.format("poem", "A poem."))
    at_a_terminal(cli, "skill", "list")
    assert "poem\tA poem.\n" in (kept / "skills").read_text()
    (skills / "poem.md").write_text(one.format("poem", "Another poem."))
    (skills / "song").mkdir()
    (skills / "song" / "SKILL.md").write_text(one.format("song", "A song."))
    at_a_terminal(cli, "ready")
    assert {"poem\tAnother poem.", "song\tA song."} <= set((kept / "skills").read_text().splitlines())
    (skills / "poem.md").unlink()
    at_a_terminal(cli, "workflow", "list")
    assert "poem" not in (kept / "skills").read_text()
    before = (kept / "skills").stat().st_ino
    at_a_terminal(cli, "ready")
    assert (kept / "skills").stat().st_ino == before, "nothing of theirs was changed"


@pytest.mark.parametrize("name", SHELLS)
def test_ids_commands_options_and_values_are_completed(cli: Cli, home: dict[str, str], name: str) -> None:
    shell(name)
    first = cli.create("Write the parser")
    at_a_terminal(cli, "ready")
    deeper = cli.directory / "src" / "deep"
    deeper.mkdir(parents=True)
    with terminal(name, home, deeper) as fd:
        for typed, becomes in (
            (f"loom show {first[:9]}", first),
            ("loom dead-l", "dead-letter "),
            ("loom dead-letter ret", "retry "),
            ("loom create x --priority p", "p"),
            ("loom status --vi", "--view "),
            ("loom status --view esc", "escalations"),
            ("loom list --status land", "landing"),
            ("loom heartbeat x --tok", "--token "),
            (f"loom heartbeat {first[:9]}", first),
            (f"loom landing approve {first[:9]}", first),
            ("loom skill show summ", "summarize_graph"),
            ("loom config set landing.appr", "landing.approve"),
            ("loom import ../de", "deep"),
        ):
            os.write(fd, f"{typed}\t".encode())
            until(fd, lambda shown, becomes=becomes: becomes.strip() in shown.replace("\r", ""))
            os.write(fd, b"\x15")  # forgets the line


@pytest.mark.parametrize("name", SHELLS)
def test_no_title_does_anything_to_the_shell(cli: Cli, home: dict[str, str], name: str) -> None:
    shell(name)
    tasks = [cli.create(title) for title in HOSTILE]
    at_a_terminal(cli, "ready")
    with (names(cli) / "tasks").open("a") as file:  # as somebody else might have written it
        file.write("loom-$(touch pwned)\tno name\n`touch pwned`\t\n;touch pwned\tx\n--help;\tx\n")
    with terminal(name, home, cli.directory) as fd:
        os.write(fd, b"loom show loom-\t\t")
        shown = until(fd, lambda shown: all(task in shown for task in tasks))
        assert "loom-$" not in shown
        os.write(fd, b"\x15\x15echo all is well\n")
        until(fd, lambda shown: "all is well" in shown)
        assert not list(cli.directory.rglob("pwned"))


def test_in_a_worktree_the_names_are_those_of_the_project(cli: Cli, home: dict[str, str]) -> None:
    shell("bash")
    first = cli.create("one")
    at_a_terminal(cli, "ready")
    beside = cli.directory.parent / "beside"
    beside.mkdir()
    (beside / ".git").write_text(f"gitdir: {cli.directory}/.git/worktrees/beside\n")
    assert offered("bash", home, beside, ["loom", "show", "loom-"]) == [first]
    for leads_back in ("./.git/worktrees/x", f"{beside}/.git/worktrees/x"):
        (beside / ".git").write_text(f"gitdir: {leads_back}\n")
        assert offered("bash", home, beside, ["loom", "show", "loom-"]) == []
    assert offered("bash", home, cli.directory.parent, ["loom", "show", "loom-"]) == []
    assert offered("bash", home | {"LOOM_PROJECT_DIR": str(cli.directory)}, Path("/"), ["loom", "show", ""]) == [first]
    strange = home | {"LOOM_PROJECT_ID": "../../../../etc"}
    assert offered("bash", strange, Path("/"), ["loom", "show", ""]) == []


def test_of_very_many_the_first_are_offered(cli: Cli, home: dict[str, str]) -> None:
    shell("bash")
    cli.create("one")
    at_a_terminal(cli, "ready")
    (names(cli) / "tasks").write_text("".join(f"loom-{number:08x}\tT\n" for number in range(5_000)))
    found = offered("bash", home, cli.directory, ["loom", "show", "loom-"])
    assert found == [f"loom-{number:08x}" for number in range(1_000)]
    assert offered("bash", home, cli.directory, ["loom", "show", "loom-00001387"]) == ["loom-00001387"]


def offered(name: str, env: dict[str, str], directory: Path, words: Sequence[str]) -> list[str]:
    """What bash would offer for the last of some words."""
    call = f'{script(name)}\nCOMP_WORDS=("$@") COMP_CWORD={len(words) - 1}; _loom; printf \'%s\\n\' "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", call, "bash", *words], env=env, cwd=directory, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_every_command_and_option_stands_in_each_script() -> None:
    from tests.pages import DOCS

    commands = re.findall(r"^### (loom [a-z -]+)$", DOCS["docs/commands.md"], re.MULTILINE)
    assert len(commands) > 30
    for name in SHELLS:
        text = script(name)
        assert [one for one in commands if f"'{one}'" not in text] == [], name
