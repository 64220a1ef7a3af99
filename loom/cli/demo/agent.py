"""One agent of `loom demo`: a command that `loom work` runs for a task, as it runs a coding agent, without a model.

What it writes for each task, and when it is run again, stands in `work.txt`. It is run as a script, with the standard
library only, in the task's own git worktree.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

_KILLED = "discount"  # the task whose first agent is killed in the middle
_THINKS = 1.0  # seconds


def main() -> int:
    """Does one run of one task. Returns the exit status."""
    said = sys.stdin.read()
    key = _key(said)
    run = _count(key)
    time.sleep(_THINKS)  # long enough that two of them meet in one file
    _write(key, run)
    if key == _KILLED and run == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdout.write(json.dumps({"summary": "done, and all tests pass"}) + "\n")  # which is not always true
    return 0


def _key(said: str) -> str:
    """Which task of the plan this is, by its title."""
    plan = Path(__file__).with_name("plan.yaml").read_text()
    titles: dict[str, str] = dict(re.findall(r"key: (\w+), title: ([^,]+),", plan))
    found = re.search(r"^Title: (.+)$", said, re.MULTILINE)
    assert found is not None, "every task has a title"
    return next(key for key, title in titles.items() if title == found[1])


def _count(key: str) -> int:
    """Which run for this task it is, the first one 1."""
    with (Path(os.environ["DEMO_MEMORY"]) / key).open("a+b") as runs:
        runs.write(b".")
        return runs.tell()


def _write(key: str, run: int) -> None:
    """Writes what this run comes to: what the runs up to it would have written."""
    sections = re.split(
        r"^=== (\w+) (\d) (\S+)\n", Path(__file__).with_name("work.txt").read_text(), flags=re.MULTILINE
    )
    for one, number, path, text in zip(*(sections[offset::4] for offset in range(1, 5)), strict=True):
        if one == key and int(number) <= run:
            Path(path).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
