"""The scripted agent of a replay: merges its task's change three ways onto what it finds; fails if that conflicts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Does one task. Returns the exit status."""
    found = re.search(r"^Title: (r\d+) ", sys.stdin.read(), re.MULTILINE)
    assert found is not None, "the prompt names the task"
    order = json.loads((Path(os.environ["REPLAY_PLACE"]) / f"{found[1]}.json").read_text())
    onto = "MERGE_HEAD" if git("rev-parse", "-q", "--verify", "MERGE_HEAD", check=False) else "HEAD"
    # The merge base of two commits is what they both come from; so each tree gets a commit that says so.
    ours, theirs = (child(f"{one}^{{tree}}", order["old"]) for one in (onto, order["new"]))
    merged = subprocess.run(
        ["git", "merge-tree", "--write-tree", "--name-only", ours, theirs], capture_output=True, text=True, check=False
    )
    if merged.returncode:
        print(f"{order['title']} conflicts: {merged.stdout.splitlines()[1:4]}", file=sys.stderr)
        return 1
    git("read-tree", "--reset", "-u", merged.stdout.strip())
    print(json.dumps({"summary": order["title"]}))
    return 0


def child(tree: str, parent: str) -> str:
    """A commit with this tree, whose parent is that."""
    who = ["-c", "user.name=Agent", "-c", "user.email=agent@example.org"]
    return git(*who, "commit-tree", "-m", "x", "-p", parent, git("rev-parse", tree))


def git(*words: str, check: bool = True) -> str:
    """Runs git as an agent does, in the directory that it is in."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=check, timeout=60).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
