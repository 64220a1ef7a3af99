"""What strangers may have put where Loom reads and writes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from loom import files

MOST = 1_000


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    directory = tmp_path / "repository"
    (directory / "below").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    return directory


def to_the_secret(directory: Path) -> Path:
    (directory / "file").symlink_to("../secret")
    return directory / "file"


def to_nothing_outside(directory: Path) -> Path:
    (directory / "file").symlink_to("../missing")
    return directory / "file"


def through_a_directory(directory: Path) -> Path:
    (directory / "away").symlink_to("..")
    return directory / "away" / "secret"


def by_a_link_to_a_link(directory: Path) -> Path:
    (directory / "first").symlink_to("below/second")
    (directory / "below" / "second").symlink_to("../../secret")
    return directory / "first"


OUT = [to_the_secret, to_nothing_outside, through_a_directory, by_a_link_to_a_link]


@pytest.mark.parametrize("way", OUT)
def test_what_leads_out_is_neither_read_nor_written(inside: Path, way: Callable[[Path], Path]) -> None:
    path = way(inside)
    for attempt in (
        lambda: files.read(path, MOST, inside),
        lambda: files.write(path, "evil", within=inside),
    ):
        with pytest.raises(OSError, match=f"it leads out of {inside}, to {inside.parent}"):
            attempt()
    assert (inside.parent / "secret").read_text() == "secret"
    assert not (inside.parent / "missing").exists()


def test_links_that_stay_inside_are_followed_and_kept(inside: Path) -> None:
    (inside / "file").symlink_to("below/target")
    files.write(inside / "file", "one", within=inside)
    assert files.read(inside / "file", MOST, inside) == b"one"
    assert (inside / "file").is_symlink()
    assert (inside / "below" / "target").read_text() == "one"
    assert [one.name for one in (inside / "below").iterdir()] == ["target"]


def test_only_regular_files_are_read(inside: Path) -> None:
    os.mkfifo(inside / "pipe")  # nobody writes to it: who opens it to read waits for ever
    (inside / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "below"):
        with pytest.raises(OSError, match="it is no regular file"):
            files.read(inside / name, MOST, inside)
    for name in ("pipe", "below"):
        with pytest.raises(OSError, match="it is no regular file"):
            files.copy(inside / name, inside / "copy", MOST, inside)
    with pytest.raises(OSError, match="it leads out"):
        files.copy(inside / "zero", inside / "copy", MOST, inside)
    assert not (inside / "copy").exists()
    with pytest.raises(OSError, match="it is no regular file"):
        files.read(inside / "zero", MOST)
    with pytest.raises(FileNotFoundError):
        files.read(inside / "none", MOST, inside)


def test_a_file_is_as_large_as_its_kind_may_be(inside: Path) -> None:
    (inside / "file").write_bytes(b"x" * 2048)
    assert len(files.read(inside / "file", 2048, inside)) == 2048
    with pytest.raises(OSError, match="it is larger than 1 kB"):
        files.read(inside / "file", 1024, inside)


# --- logs -------------------------------------------------------------------------------------------------------------


def test_a_log_and_its_directory_are_for_the_user_alone(inside: Path) -> None:
    path = inside / "logs" / "a.log"
    for text in (b"one", b"two"):
        with files.log(path, inside) as file:
            file.write(text)
    assert path.read_bytes() == b"onetwo"
    assert files.log_end(path, 4, inside) == b"etwo"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    path.chmod(0o644)
    for most, left in ((6, b"onetwo"), (5, b"")):
        with files.log(path, inside, most=most):
            assert path.read_bytes() == left
        assert path.stat().st_mode & 0o777 == 0o600


def test_no_log_is_written_to_where_a_stranger_leads(inside: Path, tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", inside / "logs" / "a.log"
    path.parent.mkdir()

    def refused(sentence: str) -> None:
        with pytest.raises(OSError, match=sentence):
            files.log(path, inside)

    for target in (secret, tmp_path / "missing", Path("other.log")):  # not even to a neighbour
        path.symlink_to(target)
        refused("Too many levels of symbolic links")
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            files.log_end(path, MOST, inside)
        path.unlink()
    os.mkfifo(path)
    refused("No such device|no regular file")
    path.unlink()
    path.hardlink_to(secret)
    refused("it has another name elsewhere")
    path.unlink()
    path.parent.rmdir()
    for target in (tmp_path, tmp_path / "missing"):
        path.parent.symlink_to(target)
        refused("it leads out of")
        path.parent.unlink()
    assert secret.read_text() == "secret"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["repository", "secret"]


def test_a_directory_of_the_users_own_is_closed_to_others(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    own.chmod(0o755)
    assert files.own_directory(own).stat().st_mode & 0o777 == 0o700
    assert files.own_directory(tmp_path / "new").stat().st_mode & 0o777 == 0o700


# --- replacing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("and_back", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_a_directory_that_is_swapped_meanwhile_leads_nowhere(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, and_back: bool, writes: bool
) -> None:
    """A link out takes its place between the look and the opening, and goes again before the second look."""
    path, away = inside / "now" / "deep" / "file", tmp_path / "away" / "deep" / "file"
    for place, text in ((path, "good"), (away, "secret")):
        place.parent.mkdir(parents=True)
        place.write_text(text)
    look, looks = files._real, 0

    def swapping(path: Path, within: Path | None) -> Path:
        nonlocal looks
        looks += 1
        if looks == 2 and and_back:
            (inside / "now").unlink()
            (inside / "kept").rename(inside / "now")
        found = look(path, within)
        if looks == 1:
            (inside / "now").rename(inside / "kept")
            (inside / "now").symlink_to(tmp_path / "away")
        return found

    monkeypatch.setattr(files, "_real", swapping)
    with pytest.raises(OSError, match="it was moved while it was opened" if and_back else "it leads out of"):
        files.write(path, "evil", within=inside) if writes else files.read(path, MOST, inside)
    assert away.read_text() == "secret"
    assert [one.name for one in away.parent.iterdir()] == ["file"]


def test_a_write_leaves_the_old_text_or_the_new_and_the_mode(inside: Path) -> None:
    path = inside / "below" / "deeper" / "file"
    files.write(path, "one")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    files.write(path, "zwei\r\n")
    assert path.read_bytes() == b"zwei\r\n"
    assert path.stat().st_mode & 0o777 == 0o640
    files.write(path, "three", 0o644)
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(UnicodeEncodeError):
        files.write(path, "\ud800")
    assert path.read_text() == "three"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("nameless", [True, False])
def test_a_new_file_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    if not nameless:  # as where files cannot be written before they have a name
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    path = tmp_path / "new"
    with files.new(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
    with pytest.raises(FileExistsError), files.new(path):
        pass
    other = tmp_path / "other"
    with pytest.raises(ZeroDivisionError), files.new(other):
        _ = 1 / 0
    assert not other.exists()
    with pytest.raises(FileExistsError), files.new(other):
        other.write_bytes(b"somebody else's")
    assert other.read_bytes() == b"somebody else's"
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_old_logs_go_and_nothing_else(inside: Path, tmp_path: Path) -> None:
    """A link goes nowhere and stays, and so does what only lies beside."""
    logs, names = inside / "logs", re.compile(r"\d+\.log")
    logs.mkdir()
    for name in ("1.log", "2.log", "other.log"):
        (logs / name).write_text(name)
    (logs / "3.log").symlink_to(tmp_path / "secret")
    (logs / "4.log").mkdir()
    for name in ("1.log", "3.log", "4.log", "other.log"):
        os.utime(logs / name, (1_000, 1_000), follow_symlinks=False)
    files.remove_old(logs, names, 2_000.0, inside)
    assert {one.name for one in logs.iterdir()} == {"2.log", "3.log", "4.log", "other.log"}
    assert (tmp_path / "secret").read_text() == "secret"


def test_no_logs_go_where_a_stranger_leads(inside: Path, tmp_path: Path) -> None:
    (inside / "logs").symlink_to("..")
    with pytest.raises(OSError, match="it leads out of"):
        files.remove_old(inside / "logs", re.compile("secret"), 1e12, inside)
    assert (tmp_path / "secret").read_text() == "secret"
