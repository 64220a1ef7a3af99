"""What the agents of a fleet are to do: a plan of tasks that depend on one another, and each one's character."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.fleet import repository

GOOD = (
    "honest", "slow", "mends", "meets", "dies", "silent_once", "outside", "junk", "commits", "rewrites", "drops_branch",
    "leaves_child", "moves_target", "plants", "forges", "big_file", "nested", "markers", "empties_tests",
)  # fmt: skip
"""Characters whose work has to land in the end, some of them once they were told what is wrong with it."""

BAD = ("lies", "idles", "silent", "guts_checks", "gives_up")
"""Characters whose tasks have to fail, with a reason."""


@dataclass(frozen=True)
class Order:
    """What the agent of one task does. `key`: the task's name in the plan; `module`: the file it changes."""

    key: str
    character: str
    module: str
    number: int
    other: str = ""
    """The key of a task that it speaks of."""

    @property
    def lands(self) -> bool:
        """Whether its work has to be on the target in the end."""
        return self.character not in BAD

    @property
    def test(self) -> str:
        """The file of the test that it adds."""
        return f"tests/test_{self.key}.py"


def give(tasks: int, rng: random.Random) -> list[Order]:
    """So many orders, each character among them where there is room: some thirty tasks."""
    pairs = [one for number in range(repository.PAIRS) for one in (f"renames {number}", f"calls {number}")]
    characters = [*BAD, *GOOD[1:], *pairs, *GOOD[1:]][: max(tasks - tasks // 5, 0)]
    characters += ["honest"] * (tasks - len(characters))
    rng.shuffle(characters)
    # Some meet in one module: a quarter of the tasks share a handful.
    modules = [rng.randrange(6) if rng.random() < 0.25 else rng.randrange(repository.MODULES) for _ in characters]
    keys = [f"t{number:02}" for number in range(tasks)]
    orders = []
    for number, (key, character) in enumerate(zip(keys, characters, strict=True)):
        name, _, pair = character.partition(" ")
        path = f"app/pair{pair}.py" if pair else repository.module(modules[number])
        orders.append(Order(key, name, repository.SHARED if name == "meets" else path, number, rng.choice(keys)))
    return orders


def plan(orders: Sequence[Order], rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """The plan: dependencies on what lands; right, wrong and no files."""
    tasks = []
    for number, order in enumerate(orders):
        before = [one.key for one in orders[:number] if one.lands]
        needs = rng.sample(before, min(len(before), rng.choice((0, 0, 1, 2))))
        task: dict[str, Any] = {"key": order.key, "title": f"{order.key} {order.character}", "depends_on": needs}
        # Tests are protected: who adds one declares it. Some declare a module that they leave alone.
        declared = repository.module(0) if rng.random() < 0.1 else order.module
        if order.character in ("idles", "outside", "empties_tests") or rng.random() < 0.8:
            task["files"] = [declared, order.test]
        else:
            task["files"] = [order.test]
        tasks.append(task)
    return {"tasks": tasks}


def write(place: Path, orders: Sequence[Order], ids: Mapping[str, str]) -> None:
    """Writes them where the agents find them, with the ids that the tasks of the plan have got by key."""
    for order in orders:
        known = {**asdict(order), "test": order.test, "id": ids[order.key], "other_id": ids[order.other]}
        (place / f"{order.key}.json").write_text(json.dumps(known))
