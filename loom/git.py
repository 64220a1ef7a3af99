"""The one way to call git, under which nothing that a repository brings along is started.

    repository = await Repository.around(directory)
    tip = await repository.text("rev-parse", "HEAD")

A repository is data, whoever wrote it: a monitor, hook, filter, merge driver, textconv, external diff, signature
program, editor, credential helper or transport that its configuration names is never run, nor does the environment of
this process lead git elsewhere. What the user's own configuration says stands, as it does when he runs git himself;
what he allows (`Trusted`) stands too. Only `fetch` and `push` reach another repository.

The directories of a `Repository` are given to git with each call, so that neither a `.git` file in a work tree nor
`core.worktree` or a `commondir` that somebody has rewritten leads it elsewhere. What a repository's settings must be
overridden for is looked up by a call of its own, which is spared while the files that it read are unchanged. Who can
write into the repository's own directory between that look and the call is not held up by this.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loom import caller, files, process
from loom.background import through
from loom.exceptions import CommandError
from loom.texts import said
from loom.wording import Shell, Words

OLDEST = (2, 38)  # `merge-tree --write-tree`

GITLINK = "160000"
"""The mode of an entry that names a commit of another repository."""

FILES_SECONDS = 600.0
"""Seconds that git may take to read or write all the files of a work tree."""

_SECONDS = 30.0
_REMOTE_SECONDS = 300.0
_OUT_BYTES = 1_000_000
_LOCKED_SECONDS = 5.0  # that a call is tried again for while another process has the index
_SETTLED = 2_000_000_000  # nanoseconds after which a file's times tell whether it was written again
_REMEMBERED = 1_000  # work trees of which the look is spared
_SETTINGS = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.attributesFile": os.devnull,
    "core.fileMode": "true",
    "core.safecrlf": "false",
    "core.quotePath": "true",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "push.gpgSign": "false",
    "merge.verifySignatures": "false",
    "log.showSignature": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "push.recurseSubmodules": "no",
    "fetch.recurseSubmodules": "false",
    "advice.detachedHead": "false",
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
_REMOTE_ENVIRONMENT = {"GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh", "SSH_ASKPASS": "true"}
_PASSED_ON = ("PATH", "HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME", "TMPDIR")
_REMOTE_PASSED_ON = (
    "SSH_AUTH_SOCK",
    "GIT_SSH_COMMAND",
    *(name for one in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (one, one.upper())),
)
# Settings with a name of their own that start a program, and what they are set to where a repository sets them.
_PROGRAMS = r"^(filter\..*\.(clean|smudge|process|required)|merge\..*\.driver|hook\..*\.command)$"
_FILTER = re.compile(r"filter\.(.*)\.(?:clean|smudge|process)$")
_INCLUDES = r"^include(if\..*)?\.path$"
_INSTEAD = {
    "clean": "",
    "smudge": "",
    "process": "",
    "required": "false",
    "driver": "false",  # a conflict
}
_REMOTE_PROGRAMS = (
    r"^(core\.(sshcommand|gitproxy|askpass|alternaterefscommand)|credential\..*|remote\..*\.(vcs|uploadpack|receivepack)"
    r"|protocol\..*|ssh\..*)$"
)
_NO_PROGRAMS = ("--no-ext-diff", "--no-textconv")
_FLAGS = dict.fromkeys(("diff", "log", "show", "diff-tree", "diff-index", "diff-files", "format-patch"), _NO_PROGRAMS)
_LOCKED = re.compile(r"Unable to create '.*(index|packed-refs|config)\.lock': File exists|could not lock config file")
_OWNED = "dubious ownership"


@dataclass(frozen=True, slots=True)
class Person:
    """Who a commit is by."""

    name: str
    email: str

    @classmethod
    def agent(cls, name: str) -> Person:
        """An agent, by an address that nobody has."""
        return cls(name, f"{name}@loom.invalid")

    def variables(self, role: str) -> dict[str, str]:
        """Names him to git as AUTHOR or COMMITTER; signs that git would take for the end of a name are left out."""
        name, email = (re.sub(r"[<>\x00-\x1f\x7f]", "", one).strip(" .,:;\"'\\") for one in (self.name, self.email))
        return {f"GIT_{role}_NAME": name or "nobody", f"GIT_{role}_EMAIL": email or "nobody@localhost"}


LOOM = Person("Loom", "loom@localhost")
"""Who commits what nobody else is named for."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository seen from one of its work trees.

    Args:
        git_dir: that work tree's own directory, so that it is not looked for; None: git finds it from the work tree
            upwards.
        common_dir: what the work tree shares with the others; None: as `git_dir` says.
        trusted: what of the repository may run: `hooks`, `filter.NAME`.
        safe: a directory of another user's that is entered all the same.
    """

    work_tree: Path
    git_dir: Path | None = None
    common_dir: Path | None = None
    trusted: frozenset[str] = field(default=frozenset(), kw_only=True)
    safe: Path | None = field(default=None, kw_only=True)

    @classmethod
    async def around(cls, directory: Path, trusted: Collection[str] = ()) -> Repository:
        """The one that a directory is in. One of another user's is entered only where this process works in it.

        Raises:
            CommandError: with what git says; there is no work tree; it belongs to another user.
        """
        directory = _real(directory)
        finder = cls(directory)
        look = (
            "rev-parse",
            "--is-inside-work-tree",
            "--absolute-git-dir",
            "--path-format=absolute",
            "--git-common-dir",
        )
        try:
            found = await finder.text(*look)
        except CommandError as error:
            if _OWNED not in error.cause:
                raise
            finder = replace(finder, safe=_started_in(directory))
            found = await finder.text(*look)
        _, git_dir, common_dir = found.split("\n")
        # Not from git: `core.worktree` of the repository would name any directory.
        top = _top(directory)
        if top is None or directory.is_relative_to(common_dir):
            raise CommandError(f"{directory} is in no work tree of a git repository.", "Run it in a checkout.")
        return cls(top, Path(git_dir), Path(common_dir), trusted=frozenset(trusted), safe=finder.safe)

    async def run(
        self,
        *words: str,
        text: bytes = b"",
        accepted: Collection[int] = (0,),
        author: Person = LOOM,
        committer: Person = LOOM,
        index: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = _SECONDS,
        out_bytes: int = _OUT_BYTES,
        pass_fds: Collection[int] = (),
        whole: bool = False,
    ) -> process.Ended:
        """Runs git with these words, in the work tree. While another process has the index or the file of packed refs
        it is tried again for five seconds. Nothing of it lives when this returns or raises, also when cancelled.

        Args:
            text: its standard input.
            accepted: exit statuses that are no failure.
            index: the file that it uses as its index; None: that of the work tree.
            env: more variables, beside those that a call has.
            timeout: seconds.
            out_bytes: how much it may print; with more it is stopped, and the result is `cut`.
            pass_fds: descriptors that it inherits, such as a lock that is to last as long as it does.
            whole: it goes on to its end also when this is cancelled, because it writes files that somebody works with:
                half of them would be taken for his own changes.

        Raises:
            CommandError: it fails, with what it says last of why; it does not end in time; it cannot be started.
        """
        more = {**author.variables("AUTHOR"), **committer.variables("COMMITTER"), **(env or {})}
        if index is not None:
            more["GIT_INDEX_FILE"] = str(index)
        call = _Call(text, timeout, out_bytes, tuple(pass_fds))
        words = (words[0], *_FLAGS.get(words[0], ()), *words[1:])
        until = time.monotonic() + _LOCKED_SECONDS
        while True:
            going = self._started(call, _settings(await self._disarmed(), more), *words)
            ended = await (_to_its_end(going) if whole else going)
            if ended.cut or ended.status in accepted:
                return ended
            if time.monotonic() > until or not _LOCKED.search(ended.err.decode(errors="replace")):
                raise _failed(words, ended)
            await asyncio.sleep(random.uniform(0.02, 0.5))

    async def text(self, *words: str, timeout: float = _SECONDS) -> str:
        """What git prints, without white space at its ends. Raises as `run`."""
        return (await self.run(*words, timeout=timeout)).out.decode(errors="replace").strip()

    async def fetch(self, remote: str, *refspecs: str, timeout: float = _REMOTE_SECONDS) -> process.Ended:
        """Fetches from a remote, and nothing but these. Raises as `run`."""
        return await self._reach(
            "fetch", "--no-tags", "--no-auto-maintenance", "--no-write-fetch-head", "--no-prune", "--refmap=",
            "--upload-pack=git-upload-pack",
            "--", remote, *refspecs, timeout=timeout,
        )  # fmt: skip

    async def push(
        self, remote: str, *refspecs: str, accepted: Collection[int] = (0,), timeout: float = _REMOTE_SECONDS
    ) -> process.Ended:
        """Pushes to a remote, all of these or none, never by force; what came of each is in `out`, as `--porcelain`
        has it. Raises as `run`."""
        return await self._reach(
            "push", "--porcelain", "--atomic", "--no-follow-tags", "--receive-pack=git-receive-pack",
            "--", remote, *refspecs, accepted=accepted, timeout=timeout,
        )  # fmt: skip

    async def runs_filter(self, name: str) -> bool:
        """Whether a filter of this name runs in a call, as git has it there: one of the user's own that the repository
        does not set too, or one that he allows. Raises as `run`."""
        for key in ("clean", "process"):
            if (await self.run("config", "--get", f"filter.{name}.{key}", accepted=(0, 1))).out.strip():
                return True
        return False

    async def filters_held_back(self) -> frozenset[str]:
        """The filters that the repository's own settings have, and that do not run for that in a call. Raises as
        `run`."""
        return frozenset(found[1] for key in await self._disarmed() if (found := _FILTER.match(key)))

    async def _reach(self, *words: str, timeout: float, accepted: Collection[int] = (0,)) -> process.Ended:
        """Runs what speaks with another repository: with the user's own way there, and none of this repository's."""
        found = await self._look(_REMOTE_PROGRAMS)
        own = [(key, value) for scope, key, value in found if scope in _OWN_SCOPES]
        set_here = {key: value for scope, key, value in found if scope not in _OWN_SCOPES}
        for key in set_here:
            if key.endswith(".vcs"):
                raise CommandError(
                    f"The repository's setting {key} names a program to reach a remote with, which Loom does not run.",
                    Words("Remove it with {}.", Shell(f"git config --unset {key}")),
                )
        settings = await self._disarmed()
        if "core.alternaterefscommand" in set_here:
            settings["core.alternateRefsCommand"] = "true"
        env = dict(_REMOTE_ENVIRONMENT)
        if "core.sshcommand" in set_here:
            given = caller.environ().get("GIT_SSH_COMMAND") or dict(own).get("core.sshcommand")
            env["GIT_SSH_COMMAND"] = given or "ssh"
        if "core.gitproxy" in set_here:
            env["GIT_PROXY_COMMAND"] = ""
        pairs = [*settings.items()]
        if any(key.startswith("credential.") for key in set_here):
            pairs += [("credential.helper", ""), *(pair for pair in own if pair[0].startswith("credential."))]
        call = _Call(b"", timeout, _OUT_BYTES, ())
        ended = await self._started(call, _environment(pairs, env, (*_PASSED_ON, *_REMOTE_PASSED_ON)), *words)
        if ended.status not in accepted:
            raise _failed(words, ended)
        return ended

    # --- what a repository would have run -----------------------------------------------------------------------------

    async def _disarmed(self) -> dict[str, str]:
        """Settings against what the repository's own would start."""
        before = self._signature()
        kept = _seen.get((self, before)) if before else None
        if kept is None:
            found = await self._look(f"{_PROGRAMS}|{_INCLUDES}")
            theirs = [key for scope, key, _ in found if scope not in _OWN_SCOPES]
            kept = dict(_against(key) for key in theirs if not re.match(_INCLUDES, key) and not self._trusts(key))
            if before and before == self._signature() and not any(re.match(_INCLUDES, key) for key in theirs):
                if len(_seen) >= _REMEMBERED:
                    _seen.clear()
                _seen[self, before] = kept
        return {**self._usual(), **kept}

    def _usual(self) -> dict[str, str]:
        """Settings of each call, whatever the repository says."""
        settings = dict(_SETTINGS)
        if "hooks" in self.trusted:
            del settings["core.hooksPath"]
        if self.safe is not None:
            settings["safe.directory"] = str(self.safe)
        return settings

    def _trusts(self, key: str) -> bool:
        section = key.rpartition(".")[0]
        return section in self.trusted or (section.startswith("hook.") and "hooks" in self.trusted)

    def _signature(self) -> tuple[object, ...]:
        """What changes when somebody writes the settings of this work tree; empty where that cannot be known, or where
        they were written so lately that their times need not tell the next time."""
        if self.git_dir is None or self.common_dir is None:
            return ()
        found: list[object] = []
        for path in (self.common_dir / "config", self.git_dir / "config.worktree"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                found.append(None)
                continue
            except OSError:
                return ()
            if abs(time.time_ns() - facts.st_ctime_ns) < _SETTLED:
                return ()
            found.append((facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))
        return tuple(found)

    async def _look(self, pattern: str) -> list[tuple[str, str, str]]:
        """The settings that match: scope, key and value of each, in git's order."""
        words = ("config", "--null", "--show-scope", "--get-regexp", pattern)
        bounds = _Call(b"", _SECONDS, _OUT_BYTES, ())
        ended = await self._started(bounds, _settings(self._usual(), {}), *words)
        if ended.status not in (0, 1) or ended.cut:  # 1: there are none
            raise _failed(words, ended)
        fields = ended.out.decode(errors="surrogateescape").split("\0")
        pairs = zip(fields[::2], fields[1::2], strict=False)
        return [(scope, key, value) for scope, pair in pairs for key, _, value in [pair.partition("\n")]]

    # --- the call -----------------------------------------------------------------------------------------------------

    async def _started(self, call: _Call, env: Mapping[str, str], *words: str) -> process.Ended:
        self._nothing_leads_out()
        try:
            await _new_enough(env)
            return await self._call(call, env, *words)
        except TimeoutError:  # which is an OSError too
            raise CommandError(
                f"`git {words[0]}` did not end within {call.timeout:g} seconds, and was stopped."
            ) from None
        except OSError as error:
            raise _not_started(error) from None

    def _nothing_leads_out(self) -> None:
        """Raises CommandError where git would write through a link that somebody has put among its own files, as an
        agent can who may commit in his worktree: a message, or a line of a log, into any file of the user's."""
        if self.git_dir is None or self.common_dir is None:
            return
        places = [self.common_dir / "logs" / "refs" / "heads" / "loom"]
        if self.git_dir != self.common_dir:
            places += [self.git_dir, self.git_dir / "logs"]
        for place in places:
            for one in _links_in(place):
                raise CommandError(f"{one} is a link, where git keeps none.", "Look at where it leads, and remove it.")

    async def _call(self, call: _Call, env: Mapping[str, str], *words: str) -> process.Ended:
        place = ["-C", str(self.work_tree)]
        if self.git_dir is not None:
            place += [f"--git-dir={self.git_dir}", f"--work-tree={self.work_tree}"]
        if self.common_dir is not None and self.common_dir != self.git_dir:
            env = {**env, "GIT_COMMON_DIR": str(self.common_dir)}
        # Without a watchdog, which costs more than git: should this process die, git may end what it is at.
        return await process.ProcessTrees(together=not self.trusted).run(
            ["git", *place, *words],
            text=call.text,
            env=env,
            cwd=None,
            timeout=call.timeout,
            out_bytes=call.out_bytes,
            pass_fds=call.pass_fds,
        )


@dataclass(frozen=True, slots=True)
class _Call:
    text: bytes
    timeout: float
    out_bytes: int
    pass_fds: tuple[int, ...]


_OWN_SCOPES = ("system", "global", "command")
_seen: dict[tuple[Repository, tuple[object, ...]], dict[str, str]] = {}
_fit: dict[str, str] = {}  # what git says of itself, by the values of PATH under which it is new enough


async def version() -> str:
    """What git says of itself, such as `git version 2.39.5`. Raises CommandError: it is not there, or too old."""
    try:
        return await _new_enough(_settings({}, {}))
    except OSError as error:
        raise _not_started(error) from None


async def _new_enough(env: Mapping[str, str]) -> str:
    """What git says of itself. Raises CommandError where it is older than Loom can use: the oldest ones do not even
    know the variables that hold a repository's programs back."""
    path = env.get("PATH", "")
    if path in _fit:
        return _fit[path]
    ended = await process.ProcessTrees().run(
        ["git", "version"], env=env, cwd=Path("/"), timeout=_SECONDS, out_bytes=1_000
    )
    told = said(ended.out.decode(errors="replace"))
    found = re.search(r"(\d+)\.(\d+)", told)
    if found is not None and (int(found[1]), int(found[2])) < OLDEST:
        raise CommandError(
            f"This is {told}, and Loom needs {OLDEST[0]}.{OLDEST[1]} or newer.", "Install a newer git, then try again."
        )
    _fit[path] = told
    return told


def _not_started(error: OSError) -> CommandError:
    if isinstance(error, FileNotFoundError):
        return CommandError("git is not installed.", "Install git.")
    return CommandError(f"git cannot be started: {error.strerror or 'it does not answer'}.")


async def _to_its_end(going: Coroutine[Any, Any, process.Ended]) -> process.Ended:
    running = asyncio.create_task(going)
    await through(running)
    return running.result()


def _against(key: str) -> tuple[str, str]:
    """The setting against one that was found."""
    section, _, name = key.rpartition(".")
    return (f"{section}.enabled", "false") if section.startswith("hook.") else (key, _INSTEAD[name])


def _settings(settings: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    return _environment(list(settings.items()), {**_ENVIRONMENT, **more}, _PASSED_ON)


def _environment(
    settings: list[tuple[str, str]], more: Mapping[str, str], passed_on: Collection[str]
) -> dict[str, str]:
    """The environment of a call, with Loom's settings in it: there a name may hold any character."""
    env = process.environment({**_ENVIRONMENT, **more}, only=passed_on)
    env["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings):
        env[f"GIT_CONFIG_KEY_{number}"], env[f"GIT_CONFIG_VALUE_{number}"] = key, value
    return env


def _started_in(directory: Path) -> Path:
    """The work tree that a directory is in, if whoever calls works in it too. Raises CommandError."""
    top = _top(directory) or directory
    if not caller.directory().is_relative_to(top):
        raise CommandError(
            f"The git repository in {top} belongs to another user.", "Run it there, if you know what lies in it."
        )
    return top


def _links_in(place: Path) -> list[Path]:
    """The links in a directory of git's, and itself if it is one. A HEAD may be one, which git never writes through."""
    if place.is_symlink():
        return [place]
    try:
        with os.scandir(place) as entries:
            found = [Path(one.path) for one in entries if one.is_symlink()]
    except OSError:  # there is none
        return []
    return [one for one in found if one.name != "HEAD" or place.name == "logs"]


def _real(directory: Path) -> Path:
    return Path(os.path.realpath(directory))


def _top(directory: Path) -> Path | None:
    """The work tree that a directory is in, where git would find it."""
    return next((one for one in (directory, *directory.parents) if files.exists(one / ".git")), None)


def _failed(words: tuple[str, ...], ended: process.Ended) -> CommandError:
    called = " ".join(("git", *[one for one in words if one not in _NO_PROGRAMS][:2]))
    lines = ended.err.decode(errors="replace").strip().splitlines() or [f"exit status {ended.status}"]
    why = next((line for line in reversed(lines) if line.startswith("fatal: ")), lines[-1])  # advice may follow it
    return CommandError(said(f"`{called}` failed: {why}"))
