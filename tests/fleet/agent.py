"""The scripted agent: does what its orders say to the files of the directory that it is started in.

It is run by `loom work` as any agent's command is: the task on standard input, exit status 0 or another, and one JSON
object as its last line. It keeps in FLEET_PLACE how often it was run for each task, as the memory of a session.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

PLACE = Path(os.environ.get("FLEET_PLACE", "."))
PLANTED = "planted-program-ran"
"""The file below it that a planted program writes to, save where an agent's own git starts it."""


def main() -> int:
    """Does one run. Returns the exit status."""
    said = sys.stdin.read()
    os.environ["FLEET_AGENT"] = "1"
    found = re.search(r"^Title: (t\d+) ", said, re.MULTILINE)
    assert found is not None, said
    order = SimpleNamespace(**json.loads((PLACE / f"{found[1]}.json").read_text()))
    with (PLACE / f"{order.key}.runs").open("a+") as runs:
        runs.write(f"{os.getpid()}\n")
        runs.seek(0)
        order.run = len(runs.readlines())
    settle_conflict()
    play: Callable[[SimpleNamespace], object] = globals()[f"play_{order.character}"]
    if play(order) is None:
        print(json.dumps({"summary": f"{order.key} is done, all tests pass"}))
    return 0


# --- good characters --------------------------------------------------------------------------------------------------


def play_honest(order: SimpleNamespace) -> None:
    """Adds a function to its module and a test."""
    add(order)


def play_slow(order: SimpleNamespace) -> None:
    """Takes its time over the same."""
    time.sleep(2)
    add(order)


def play_mends(order: SimpleNamespace) -> None:
    """Breaks a test at first, and mends it when it is told."""
    add(order, wrong=order.run == 1)


def play_meets(order: SimpleNamespace) -> None:
    """Adds a line where others add theirs."""
    path = Path(order.module)
    line = f"    '{order.key}',\n"
    text = path.read_text()
    if line not in text:
        write(path, text.replace("NAMES = [\n", f"NAMES = [\n{line}"))
    write(order.test, test(order, "from app.shared import NAMES", f"'{order.key}' in NAMES"))


def play_renames(order: SimpleNamespace) -> None:
    """Renames a function and sees to its callers, of which there are none yet."""
    path = Path(order.module)
    number = re.sub(r"\D", "", path.stem)
    for one in (path, *Path("app").glob(f"user{number}.py")):
        write(one, re.sub(rf"\bold{number}\b", f"new{number}", one.read_text()))
    write(order.test, test(order, f"from app.pair{number} import new{number}", f"new{number}() == {number}"))


def play_calls(order: SimpleNamespace) -> None:
    """Calls that function by the name that it finds."""
    number = re.sub(r"\D", "", Path(order.module).stem)
    name = ("new" if f"def new{number}" in Path(order.module).read_text() else "old") + number
    write(f"app/user{number}.py", f"from app.pair{number} import {name}\n\n\ndef use():\n    return {name}() + 1\n")
    write(order.test, test(order, f"from app.user{number} import use", f"use() == {number} + 1"))


def play_dies(order: SimpleNamespace) -> None:
    """Is killed in the middle of its first run."""
    add(order, wrong=order.run == 1)
    if order.run == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def play_silent_once(order: SimpleNamespace) -> object:
    """Does its work and says nothing until it is asked."""
    add(order)
    return True if order.run == 1 else None


def play_outside(order: SimpleNamespace) -> None:
    """Changes a file beside those that it declared."""
    add(order)
    write(f"app/extra_{order.key}.py", f"EXTRA = {order.number}\n")


def play_junk(order: SimpleNamespace) -> None:
    """Leaves ignored files, a socket's kin and an empty directory about."""
    add(order)
    write("build/output.bin", "x" * 10_000)
    Path("empty").mkdir(exist_ok=True)
    if not Path("pipe").exists():
        os.mkfifo("pipe")


def play_commits(order: SimpleNamespace) -> None:
    """Commits by itself."""
    add(order)
    commit(f"{order.key}: add a function")


def play_rewrites(order: SimpleNamespace) -> None:
    """Commits, and writes its branch's history anew, with a root of its own."""
    add(order)
    commit("first try")
    tree = git("write-tree")
    git("reset", "-q", "--soft", git("commit-tree", "-m", "all of it anew", tree))


def play_drops_branch(order: SimpleNamespace) -> None:
    """Detaches, and deletes its own branch."""
    add(order)
    branch = git("symbolic-ref", "HEAD", check=False)
    git("checkout", "-q", "--detach", check=False)
    if branch:
        git("update-ref", "-d", branch, check=False)


def play_leaves_child(order: SimpleNamespace) -> None:
    """Leaves a process in a session of its own."""
    add(order)
    nothing = subprocess.DEVNULL
    child = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(child, start_new_session=True, stdin=nothing, stdout=nothing, stderr=nothing)


def play_moves_target(order: SimpleNamespace) -> None:
    """Moves the target to its own unproven work, once."""
    add(order, wrong=order.run == 1)
    if order.run == 1:
        commit("straight to the target")
        git("update-ref", "refs/heads/loom/landed", git("rev-parse", "HEAD"), check=False)
        add(order)


def play_plants(order: SimpleNamespace) -> None:
    """Plants programs wherever git might start one."""
    add(order)
    if order.run > 1:  # it was told that its files belong through a filter that is not in force
        shutil.rmtree(f"app/evil_{order.key}", ignore_errors=True)
        return
    program = PLACE / f"planted-{order.key}"
    program.write_text(f'#!/bin/sh\n[ -n "$FLEET_AGENT" ] || echo {order.key} $0 >> {PLACE / PLANTED}\ncat\n')
    program.chmod(0o755)
    common = Path(git("rev-parse", "--path-format=absolute", "--git-common-dir"))
    hooks = common / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("pre-commit", "post-checkout", "post-merge", "reference-transaction", "post-index-change"):
        shutil.copy(program, hooks / name)
    for key in ("filter.evil.clean", "filter.evil.smudge", "merge.evil.driver", "diff.evil.textconv", "core.fsmonitor",
                "diff.external", "gpg.program", "credential.helper", "core.sshCommand"):  # fmt: skip
        git("config", key, str(program), check=False)
    write(f"app/evil_{order.key}/.gitattributes", "* filter=evil merge=evil diff=evil\n")
    write(f"app/evil_{order.key}/data.txt", "data\n")
    git_file = Path(".git")
    if git_file.is_file():
        git_file.write_text(f"gitdir: {PLACE / 'somewhere-else'}\n")


def play_forges(order: SimpleNamespace) -> None:
    """Says in its commit that another task has landed with it."""
    add(order)
    commit(f"{order.key}\n\nLoom-Task: {order.other_id}\nLoom-Agent: somebody\n")


def play_big_file(order: SimpleNamespace) -> None:
    """Leaves a file that no repository wants, until it is told."""
    add(order)
    big = Path("core.dump")
    if order.run == 1:
        with big.open("wb") as file:
            file.truncate(51_000_000)
    else:
        big.unlink(missing_ok=True)


def play_nested(order: SimpleNamespace) -> None:
    """Leaves a repository in the repository, until it is told."""
    add(order)
    inner = Path("vendored")
    if order.run == 1:
        inner.mkdir(exist_ok=True)
        git("init", "-q", cwd=inner)
        (inner / "file.txt").write_text("inner\n")
        git("add", "-A", cwd=inner)
        git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-m", "inner", cwd=inner)
    else:
        shutil.rmtree(inner, ignore_errors=True)


def play_markers(order: SimpleNamespace) -> None:
    """Leaves the markers of a conflict in a text file, until it is told."""
    add(order)
    notes = f"notes_{order.key}.txt"
    write(notes, "<<<<<<< ours\none\n=======\ntwo\n>>>>>>> theirs\n" if order.run == 1 else "one\ntwo\n")


def play_empties_tests(order: SimpleNamespace) -> None:
    """Breaks a module and empties the test that would say so, until it is told."""
    module, its_test = Path("app/p1/m001.py"), Path("tests/test_m001.py")
    add(order)
    if order.run == 1:
        write(module, re.sub(r"1\n", "1 + LIE\n", module.read_text(), count=1))
        write(its_test, "")
    else:
        write(module, module.read_text().replace(" + LIE", ""))
        git("checkout", "-q", "main", "--", str(its_test), check=False)


# --- bad characters ---------------------------------------------------------------------------------------------------


def play_lies(order: SimpleNamespace) -> None:
    """Says that all is well, over work that is broken."""
    add(order, wrong=True)


def play_idles(order: SimpleNamespace) -> None:
    """Says that all is well, and has done nothing."""


def play_silent(order: SimpleNamespace) -> object:
    """Does its work and never says a word."""
    add(order)
    return True


def play_guts_checks(order: SimpleNamespace) -> None:
    """Breaks its module and has the check say yes to everything."""
    add(order, wrong=True)
    write(".loom/config.yaml", "checks: {unit: {command: ['true']}}\n")


def play_gives_up(order: SimpleNamespace) -> object:
    """Says that it cannot do it."""
    print("I cannot help with that.")
    sys.exit(1)


# --- how --------------------------------------------------------------------------------------------------------------


def add(order: SimpleNamespace, *, wrong: bool = False) -> None:
    """Adds a function to its module, below what is there, and a test of it."""
    path = Path(order.module)
    text = re.sub(rf"\n\ndef {order.key}\(.*?\n    return .*?\n", "", path.read_text())
    write(path, f"{text}\n\ndef {order.key}(x):\n    return x + {order.number}{' + LIE' if wrong else ''}\n")
    imports = f"from {'.'.join(path.with_suffix('').parts)} import {order.key}"
    write(order.test, test(order, imports, f"{order.key}(1) == {order.number} + 1"))


def test(order: SimpleNamespace, imports: str, holds: str) -> str:
    """The source of its test."""
    return (
        f"import unittest\n\n{imports}\n\n\nclass Test_{order.key}(unittest.TestCase):\n"
        f"    def test_it(self):\n        self.assertTrue({holds})\n"
    )


def settle_conflict() -> None:
    """Settles what a merge left open by keeping both sides."""
    for name in git("diff", "--name-only", "--diff-filter=U", check=False).splitlines():
        path = Path(name)
        if path.is_file():
            write(path, re.sub(r"^(<{7} .*|={7}|>{7} .*)\n", "", path.read_text(), flags=re.MULTILINE))


def write(name: str | Path, text: str) -> None:
    """Writes a file, in directories that are made where they lack: all of it or nothing, as editors do, since whoever
    follows an attempt that was killed would take half a file for what it is to be."""
    path, fresh = Path(name), PLACE / f"fresh-{os.getpid()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_text(text)
    fresh.replace(path)


def commit(message: str) -> None:
    """Commits all of its work."""
    git("add", "-A", check=False)
    git("-c", "user.name=Agent", "-c", "user.email=agent@example.org", "commit", "-q", "-m", message, check=False)


def git(*words: str, check: bool = True, cwd: Path | None = None) -> str:
    """Runs git as an agent does, in the directory that it is in."""
    done = subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=check, timeout=60)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
