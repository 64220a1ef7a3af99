"""To which place of this machine a project's id belongs, and where its data was last.

The id stands in a file of the repository, for everybody to read and to write into a file of theirs: whoever then works
in that one would see and change the tasks of the first. So an id belongs to the place that first used it on this
machine, and to those that the user has allowed since. A repository of git is one place with all its worktrees.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from loom import files, texts
from loom.config.files import common_dir
from loom.config.inside import refuse_inside
from loom.config.keys import LoomConfig
from loom.config.trust import changing, stored
from loom.exceptions import ConfigError, ProjectElsewhereError
from loom.wording import Shell, Words

_DATA = "data.local.txt"  # in .loom; git ignores it
_DATA_BYTES = 4096
_PROJECTS = "projects"  # in the store: id to the places that may use it, the first one first
_MOST = 50  # places of one id


def place_of(directory: Path) -> Path:
    """The root of the repository that a directory is in, for a linked worktree that of the main one; a directory that
    is in none is its own."""
    directory = directory.resolve()
    for one in (directory, *directory.parents):
        git = one / ".git"
        if (common := common_dir(one)) is not None:
            return common.parent if common.name == ".git" else common
        if git.is_symlink() or files.exists(git):  # a link may lead into somebody else's
            return one
    return directory


def owner_elsewhere(config: LoomConfig) -> str | None:
    """The place that the project's id belongs to, where that is another one than this."""
    return _other_owner(_places(stored(), config), config) if _is_bound(config) else None


def enter(config: LoomConfig) -> None:
    """Lets this place use the project's id; the first one to do so owns it. An id that does not come from a file of the
    project is the word of the user himself.

    Raises:
        ProjectElsewhereError: it belongs to another place.
    """
    if not _is_bound(config):
        return
    known = _places(stored(), config)  # read once: between two looks another place may become the first
    owner = _other_owner(known, config)
    if not known:
        with suppress(ConfigError):  # where nothing can be kept, as in some containers, nothing is known either
            owner = _take(config, only_if_free=True)
    if owner is not None:
        raise ProjectElsewhereError(
            f"The id in {_here(config)} is that of the project in {owner}, which was the first to use it here.",
            Words(
                "If both are one project run {} there in a terminal; else delete the line `project_id` and run {}.",
                Shell("loom config trust"),
                Shell("loom init"),
            ),
        )


def allow(config: LoomConfig) -> None:
    """Records that the user wants this place to use the project's id. Raises ConfigError, also inside a run."""
    if _is_bound(config):
        refuse_inside("The places that may use this project's id")
        _take(config, only_if_free=False)


def last_data(config: LoomConfig) -> str | None:
    """Where the data of this project was when it was last worked on from this directory, by whomever."""
    if config.loom_dir is None:
        return None
    try:
        kept = files.read(config.loom_dir / _DATA, _DATA_BYTES, config.project_dir).decode()
    except (OSError, ValueError):
        return None
    project_id, _, where = texts.one_line(kept).partition(" ")
    return where if where and project_id == config.project_id else None


def keep_data(config: LoomConfig, where: str) -> None:
    """Notes that it is there now, for whoever works in this directory with other servers."""
    if config.loom_dir is not None and config.loom_dir.is_dir():
        with suppress(OSError):  # a project that cannot be written to is worked on all the same
            files.write(config.loom_dir / _DATA, f"{config.project_id} {where}\n", 0o600, within=config.project_dir)


def _take(config: LoomConfig, *, only_if_free: bool) -> str | None:
    """Enters this place with the id. Gives back who was first instead, where it must be free and is not."""
    with changing() as store:
        known = _places(store, config)
        here = _here(config)
        if here in known:
            return None
        if known and only_if_free:
            return known[0]
        projects = store.get(_PROJECTS)
        store[_PROJECTS] = (projects if isinstance(projects, dict) else {}) | {
            config.project_id: [*known[:_MOST], here]
        }
    return None


def _other_owner(known: list[str], config: LoomConfig) -> str | None:
    return known[0] if known and _here(config) not in known else None


def _is_bound(config: LoomConfig) -> bool:
    """Whether the id stands in a file of the project."""
    if config.project_dir is None or config.project_id is None:
        return False
    return config.sources.get("project_id") == str(config.project_dir / ".loom" / "config.yaml")


def _here(config: LoomConfig) -> str:
    assert config.project_dir is not None
    return str(place_of(config.project_dir))


def _places(store: dict[str, Any], config: LoomConfig) -> list[str]:
    projects = store.get(_PROJECTS)
    known = projects.get(config.project_id) if isinstance(projects, dict) else None
    return [one for one in known if isinstance(one, str)] if isinstance(known, list) else []
