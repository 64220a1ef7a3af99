"""Filters of git, through which files belong on their way into a checkout and out of it: whether they run."""

from __future__ import annotations

from loom import texts
from loom.exceptions import CommandError
from loom.git import Repository
from loom.wording import Shell, Words

_ATTRIBUTES_BYTES = 50_000_000  # of lines that name a filter


async def must_run(repository: Repository) -> None:
    """Raises CommandError where files belong through a filter that does not run: one that the repository's own settings
    have, or Git LFS. They would lie in a worktree otherwise than in the checkout, and be committed so."""
    used = await _named(repository)
    if "lfs" in used and not await repository.runs_filter("lfs"):
        raise CommandError(
            f"The repository {repository.work_tree} keeps files in Git LFS, whose filter may not run here: they "
            "would be committed whole.",
            "Set it up for your user (git lfs install), or allow it: landing.trusted_git: [filter.lfs]",
        )
    if held_back := sorted(used & await repository.filters_held_back()):
        name = held_back[0]
        raise CommandError(
            f"Files of the repository {repository.work_tree} belong through the filter {texts.quote(name)}, which its"
            " own settings have, and which may not run here: they would be committed as they lie there.",
            Words(
                "Look at what it runs ({}), then allow it: landing.trusted_git: [filter.{}]",
                Shell("git config --get-regexp ^filter"),
                name,
            ),
        )


async def _named(repository: Repository) -> set[str]:
    """The filters that the attributes of a repository name."""
    places_of = (":(glob)**/.gitattributes", ":(glob).gitattributes")
    words = ("grep", "-h", "--text", "--fixed-strings", "-e", " filter=", "-e", "\tfilter=", "HEAD", "--", *places_of)
    found = await repository.run(*words, accepted=(0, 1), out_bytes=_ATTRIBUTES_BYTES)
    lines = (line.split() for line in found.out.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {word.removeprefix("filter=") for words in lines for word in words[1:] if _names_one(word)}


def _names_one(attribute: str) -> bool:
    return attribute.startswith("filter=") and attribute.isprintable()
