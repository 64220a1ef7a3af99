"""Where what Loom makes of a repository lies, and what holds such a place."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from loom.config import LoomConfig
from loom.exceptions import CommandError, FileError
from loom.landing import places
from loom.landing.places import Lock, Scratch, state_dir, take_slot

ID = "7ae4a8a8-5a2e-4b9e-a9f5-0e4a7f0c8c11"


def test_the_state_of_a_project_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = state_dir(LoomConfig(project_id=ID))
    assert here == Path.home() / ".local" / "state" / "loom" / ID
    assert stat.S_IMODE(here.stat().st_mode) == 0o700
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_dir(LoomConfig(project_id=ID)) == tmp_path / "state" / "loom" / ID
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_dir(LoomConfig(project_id=ID)) == here


def test_a_state_that_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="here is none"):
        state_dir(LoomConfig())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "loom").mkdir()
    (tmp_path / "loom" / ID).symlink_to(tmp_path)
    with pytest.raises(FileError, match="is no directory of this user's own"):
        state_dir(LoomConfig(project_id=ID))
    (tmp_path / "loom" / ID).unlink()
    (tmp_path / "loom" / ID).touch()
    with pytest.raises(FileError, match="cannot be written: File exists"):
        state_dir(LoomConfig(project_id=ID))


def test_a_lock_is_held_by_one_and_by_what_inherits_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = Lock.take(path)
    assert lock is not None
    assert Lock.take(path) is None
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fd], stdout=subprocess.DEVNULL
    )
    lock.let_go()
    assert Lock.take(path) is None
    child.communicate(b"\n")
    again = Lock.take(path)
    assert again is not None
    again.let_go()


def test_a_lock_that_was_removed_meanwhile_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    old = Lock.take(path)
    assert old is not None
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        """Whoever had it has just removed it, and somebody else has made it anew."""
        monkeypatch.setattr(fcntl, "flock", real)
        old.let_go(remove=True)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    new = Lock.take(path)
    assert new is not None
    assert os.path.samestat(os.fstat(new.fd), path.stat())
    assert Lock.take(path) is None
    new.let_go()


def test_no_two_have_one_slot() -> None:
    first, held = take_slot()
    second, other = take_slot(first)
    assert (first, second) == (1, 2)
    held.let_go()
    third, again = take_slot()
    assert third == 1
    again.let_go()
    other.let_go()
    five, kept = take_slot(5)
    assert five == 5
    kept.let_go()


def test_slots_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_SLOTS", 2)
    _, held = take_slot()
    with pytest.raises(FileError, match="All of 2 slots are taken"):
        take_slot()
    held.let_go()


def test_scratch_of_who_was_killed_goes_when_the_next_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "loom-scratch-of-somebody").mkdir()
    left = Scratch.make()
    (left.path / "closed").mkdir(mode=0o500)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[left.fd], stdout=subprocess.DEVNULL
    )
    os.close(left.fd)  # as whoever made it has ended
    with Scratch.make() as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert left.path.exists()  # what it has started holds it
        child.communicate(b"\n")
        with Scratch.make():
            assert not left.path.exists()
            assert path.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["loom-scratch-of-somebody"]


def test_scratch_that_is_held_by_nobody_yet_is_made_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        """Somebody takes it for what was left before it is held."""
        monkeypatch.setattr(fcntl, "flock", real)
        places.clear_scratch()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Scratch.make() as path:
        places.clear_scratch()
        assert path.is_dir()
    assert [*tmp_path.iterdir()] == []


def test_scratch_that_cannot_be_made_or_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Scratch.make()
    monkeypatch.setattr(places, "remove", refuse)
    kept.drop()  # a file in it is another user's
    assert kept.path.exists()
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Scratch.make():
        assert not kept.path.exists()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(FileError, match=r"nowhere cannot be written: No such file or directory\. Mend that, or name"):
        Scratch.make()


def refuse(path: Path) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted", str(path))


def test_what_is_removed_is_removed_whole_and_nothing_else(tmp_path: Path) -> None:
    away, place = tmp_path / "away", tmp_path / "place"
    away.mkdir()
    (away / "kept").touch()
    closed = place / "closed" / "deep"
    closed.mkdir(parents=True)
    (closed / "file").touch()
    (place / "link").symlink_to(away)
    for one in (closed, closed.parent):
        one.chmod(0o500)
    places.remove(place)
    assert not place.exists()
    (tmp_path / "link").symlink_to(away)
    places.remove(tmp_path / "link")
    places.remove(tmp_path / "nothing")
    assert (away / "kept").exists()
    assert not (tmp_path / "link").is_symlink()
