"""What leads git from a worktree to its repository and back: read, and put right where an agent has written there.

An agent who can commit can write into the directory that git keeps for his worktree, and into its `.git` file. Neither
is believed: each worktree's mark has both directories.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from loom import files
from loom.landing import places

_BYTES = 10_000  # of a file that says where a worktree is
_FILES = ("HEAD", "index")  # of a worktree, which are no directories


def pointer(git_dir: Path) -> str:
    """The `.git` file that leads to a worktree's own directory. What an agent has put in the place of the text that
    names it goes, because git would wait for a pipe without end: whoever enters the worktree next mends that.

    Raises OSError: it is just being made, or removed.
    """
    path = git_dir / "gitdir"
    if stat.S_IFMT(path.lstat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        path.unlink()
    return files.read(path, _BYTES, git_dir).decode(errors="surrogateescape").strip()


def listed(common: Path) -> dict[Path, Path]:
    """The directories of the worktrees that git keeps, and where these are."""
    found = {}
    for git_dir in sorted((common / "worktrees").glob("*")):
        try:
            found[git_dir] = Path(pointer(git_dir)).parent
        except OSError:
            continue  # it is just being made, or removed
    return found


def lead_home(state: Path) -> None:
    """Has what git keeps of the worktrees of tasks name these again. An agent who can commit can write there, and the
    checkout of somebody else that he names would be taken for one of the branch that he is on."""
    for top, mark in places.marked(state).items():
        path, wanted = Path(mark.git_dir) / "gitdir", f"{top / '.git'}\n"
        with suppress(OSError):  # it is just being removed
            if path.parent.is_symlink():
                continue
            if path.is_symlink():
                path.unlink()
            if pointer(path.parent) != wanted.strip():
                files.write(path, wanted, 0o644, path.parent)


def put_back(path: Path, git_dir: Path, branch: str) -> None:
    """Mends what an agent may have made of what leads git from his worktree to the repository and back: whoever works
    there next goes by it. Locks of gits that were killed go, as nothing runs there any more. Raises OSError."""
    dot_git = path / ".git"
    wanted = f"gitdir: {git_dir}\n"
    if dot_git.is_symlink() or not _says(dot_git, wanted.encode()):
        if dot_git.is_dir() and not dot_git.is_symlink():  # a repository of the agent's own, which may hold work
            dot_git.rename(_free(path.with_name(f"{path.name}.git")))
        dot_git.unlink(missing_ok=True)
        dot_git.write_text(wanted)
    _only_gits_own(git_dir)
    if not (git_dir / "HEAD").exists():
        (git_dir / "HEAD").write_text(f"ref: refs/heads/{branch}\n")
    for name, text in (("gitdir", f"{dot_git}\n"), ("commondir", "../..\n")):
        files.write(git_dir / name, text, 0o644, git_dir)
    for lock in git_dir.glob("*.lock"):
        places.remove(lock)


def _only_gits_own(git_dir: Path) -> None:
    """Removes what git could not go on with: a link, through which it would write anywhere, a pipe, which it would wait
    for, and a directory in the place of a file."""
    for one in (git_dir, git_dir / "logs"):
        for there in [one, *(one.iterdir() if one.is_dir() else ())]:
            is_directory = there.is_dir() and there.name not in _FILES
            if there.is_symlink() or not (is_directory or there.is_file()):
                places.remove(there)


def _says(path: Path, text: bytes) -> bool:
    """Whether there is a file with this text and nothing more."""
    try:
        return files.read(path, len(text), path.parent) == text
    except OSError:
        return False


def _free(path: Path) -> Path:
    numbers = (path.with_name(f"{path.name}.{number}") for number in range(1, 1000))
    return next(one for one in (path, *numbers) if not os.path.lexists(one))
