"""To which place of a machine a project's id belongs."""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path

import pytest

from loom.config import LoomConfig, load_config, places, trust, user_config_path
from loom.exceptions import ProjectElsewhereError
from loom.graph.front import Loom
from tests.repositories import git

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def place(directory: Path, project_id: str = ID) -> LoomConfig:
    (directory / ".loom").mkdir(parents=True, exist_ok=True)
    (directory / ".loom" / "config.yaml").write_text(f"project_id: {project_id}\n")
    return load_config(directory)


def repository(directory: Path) -> Path:
    directory.mkdir()
    git(directory, "init", "-q")
    git(directory, "commit", "-q", "--allow-empty", "-m", "first")
    return directory


def test_an_id_belongs_to_the_first_place_that_used_it(tmp_path: Path) -> None:
    mine, cloned = place(tmp_path / "mine"), place(tmp_path / "cloned")
    assert places.owner_elsewhere(mine) is None
    places.enter(mine)
    places.enter(mine)
    assert places.owner_elsewhere(cloned) == str(tmp_path / "mine")
    with pytest.raises(ProjectElsewhereError) as caught:
        places.enter(cloned)
    assert str(caught.value) == (
        f"The id in {tmp_path / 'cloned'} is that of the project in {tmp_path / 'mine'}, which was the first to use it "
        "here. If both are one project run `loom config trust` there in a terminal; else delete the line `project_id` "
        "and run `loom init`."
    )
    places.enter(place(tmp_path / "another", str(uuid.uuid4())))
    places.allow(cloned)
    places.enter(cloned)
    places.enter(mine)
    trust(tmp_path / "cloned")  # keeps what is known of places
    places.enter(cloned)


def test_a_repository_with_its_worktrees_is_one_place(tmp_path: Path) -> None:
    shop = repository(tmp_path / "shop")
    git(shop, "worktree", "add", "-q", str(tmp_path / "linked"))
    places.enter(place(shop / "below"))
    places.enter(place(tmp_path / "linked" / "own"))
    with pytest.raises(ProjectElsewhereError):
        places.enter(place(repository(tmp_path / "clone")))


@pytest.mark.parametrize("how", ["link", "file", "fake"])
def test_what_points_into_a_repository_is_not_of_it(tmp_path: Path, how: str) -> None:
    shop, evil = repository(tmp_path / "shop"), tmp_path / "evil"
    git(shop, "worktree", "add", "-q", str(tmp_path / "linked"))
    places.enter(place(shop))
    config = place(evil)
    if how == "link":
        (evil / ".git").symlink_to(shop / ".git")
    elif how == "file":
        (evil / ".git").write_text(f"gitdir: {shop}/.git/worktrees/linked\n")
    else:
        (evil / "fake").mkdir()
        (evil / "fake" / "commondir").write_text(f"{shop}/.git\n")
        (evil / "fake" / "gitdir").write_text(f"{evil}/.git\n")
        (evil / ".git").write_text("gitdir: fake\n")
    with pytest.raises(ProjectElsewhereError):
        places.enter(config)


def test_the_word_of_the_user_is_not_questioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places.enter(place(tmp_path / "mine"))
    place(tmp_path / "cloned", str(uuid.uuid4()))
    monkeypatch.setenv("LOOM_PROJECT_ID", ID)
    places.enter(load_config(tmp_path / "cloned"))
    places.enter(LoomConfig(project_id=ID))


def test_of_places_that_come_at_once_one_is_the_first(tmp_path: Path) -> None:
    configs = [place(tmp_path / str(number)) for number in range(8)]
    entered: list[str] = []

    def enter(config: LoomConfig) -> None:
        try:
            places.enter(config)
            entered.append(str(config.project_dir))
        except ProjectElsewhereError:
            pass

    threads = [threading.Thread(target=enter, args=(config,)) for config in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 1
    assert json.loads(user_config_path().with_name("trust.json").read_text())["projects"] == {ID: entered}


@pytest.mark.parametrize("damage", ["", "[", "[]", '{"projects": 5}', f'{{"projects": {{"{ID}": [5]}}}}'])
def test_damage_belongs_to_nobody(tmp_path: Path, damage: str) -> None:
    config = place(tmp_path / "mine")
    user_config_path().parent.mkdir()
    user_config_path().with_name("trust.json").write_text(damage)
    places.enter(config)
    assert places.owner_elsewhere(config) is None


async def test_the_tasks_of_another_place_are_not_reached(tmp_path: Path, config: LoomConfig, loom: Loom) -> None:
    await loom.create("Secret")
    assert config.project_id
    places.enter(place(tmp_path / "mine", config.project_id))
    cloned = place(tmp_path / "cloned", config.project_id)
    assert cloned.project_id == loom.project_id
    async with Loom(cloned, agent="evil") as other:
        with pytest.raises(ProjectElsewhereError):
            await other.ready()
