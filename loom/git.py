"""The one way to call git, under which nothing that a repository brings along is started.

    repository = await Repository.around(directory)
    tip = await repository.text("rev-parse", "HEAD")

A repository is data, whoever wrote it: a monitor, hook, filter, merge driver, textconv, external diff, signature
program, editor, credential helper or transport that its configuration names is never run, nor does the environment of
this process lead git elsewhere. What the user's own configuration says stands, as it does when he runs git himself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loom import process
from loom.exceptions import CommandError

_SECONDS = 30.0
_OUT_BYTES = 1_000_000
_SETTINGS = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.attributesFile": os.devnull,
    "commit.gpgSign": "false",
    "log.showSignature": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
}
_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "GIT_EDITOR": "true",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",  # objects that are missing stay so; the next line does that for older gits
    "GIT_ALLOW_PROTOCOL": "none",
    "LC_ALL": "C",  # what it says is read here
}
_PASSED_ON = ("PATH", "HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME", "TMPDIR")
# Settings with a name of their own that start a program, and what they are set to where a repository sets them.
_PROGRAMS = r"^(filter\..*\.(clean|smudge|process|required)|merge\..*\.driver|hook\..*\.command)$"
_INSTEAD = {
    "clean": "",
    "smudge": "",
    "process": "",
    "required": "false",
    "driver": "false",  # a conflict
}
_FLAGS = dict.fromkeys(("diff", "log", "show"), ("--no-ext-diff", "--no-textconv"))


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository seen from one of its work trees. `git_dir`: that work tree's own, so that it is not looked for;
    None: git finds it from the work tree upwards."""

    work_tree: Path
    git_dir: Path | None = None

    @classmethod
    async def around(cls, directory: Path) -> Repository:
        """The one that a directory is in. Raises CommandError with what git says."""
        found = await cls(directory).text("rev-parse", "--show-toplevel", "--absolute-git-dir")
        top, _, git_dir = found.partition("\n")
        return cls(Path(top), Path(git_dir))

    async def run(self, *words: str, timeout: float = _SECONDS, out_bytes: int = _OUT_BYTES) -> process.Ended:
        """Runs git with these words, in the work tree.

        Args:
            timeout: seconds.
            out_bytes: how much it may print; with more it is stopped, and the result is `cut`.

        Raises:
            CommandError: it fails, with what it says last of why; it does not end in time; it cannot be started.
        """
        called = f"`git {' '.join(words[:2])}`"
        try:
            found = await self._call(_settings({}), timeout, _OUT_BYTES, *_LOOK)
            if found.status not in (0, 1) or found.cut:  # 1: there are none
                raise _failed(called, found)
            env = _settings(_disarmed(found.out.decode(errors="surrogateescape")))
            words = (words[0], *_FLAGS.get(words[0], ()), *words[1:])
            ended = await self._call(env, timeout, out_bytes, *words)
        except TimeoutError:  # which is an OSError too
            raise CommandError(f"`git {words[0]}` did not end within {timeout:g} seconds, and was stopped.") from None
        except FileNotFoundError:
            raise CommandError("git is not installed.", "Install git.") from None
        except OSError as error:
            raise CommandError(f"git cannot be started: {error.strerror}.") from None
        if ended.status and not ended.cut:
            raise _failed(called, ended)
        return ended

    async def text(self, *words: str, timeout: float = _SECONDS) -> str:
        """What git prints, without white space at its ends. Raises as `run`."""
        return (await self.run(*words, timeout=timeout)).out.decode(errors="replace").strip()

    async def _call(self, env: Mapping[str, str], timeout: float, out_bytes: int, *words: str) -> process.Ended:
        place = ["-C", str(self.work_tree)]
        if self.git_dir is not None:
            place += [f"--git-dir={self.git_dir}", f"--work-tree={self.work_tree}"]
        # Without a watchdog, which costs more than git: should this process die, git may end what it is at.
        return await process.ProcessTrees().run(
            ["git", *place, *words], env=env, cwd=None, timeout=timeout, out_bytes=out_bytes
        )


_LOOK = ("config", "--null", "--show-scope", "--name-only", "--get-regexp", _PROGRAMS)


def _settings(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a call, with Loom's settings in it: there a name may hold any character."""
    settings = {**_SETTINGS, **more}
    env = process.environment(_ENVIRONMENT, only=_PASSED_ON)
    env["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings.items()):
        env[f"GIT_CONFIG_KEY_{number}"], env[f"GIT_CONFIG_VALUE_{number}"] = key, value
    return env


def _disarmed(listed: str) -> dict[str, str]:
    """Settings against those that were listed, scope and key each, but the user's own."""
    fields = listed.split("\0")
    found = {}
    for scope, key in zip(fields[::2], fields[1::2], strict=False):
        section, _, name = key.rpartition(".")
        if scope not in ("system", "global"):
            if section.startswith("hook."):
                found[f"{section}.enabled"] = "false"
            else:
                found[key] = _INSTEAD[name]
    return found


def _failed(called: str, ended: process.Ended) -> CommandError:
    why = ended.err.decode(errors="replace").strip().splitlines() or [f"exit status {ended.status}"]
    return CommandError(f"{called} failed: {why[-1]}")
