"""`loom stats` as people and programs see it."""

from __future__ import annotations

from tests.cli.conftest import Cli


def test_what_people_and_programs_see(cli: Cli) -> None:
    epic = cli.create("All of it", "--epic")
    tasks = [cli.create(f"T{number}", "--parent", epic) for number in range(6)]
    for task in tasks:
        cli.ok("claim", task, "--agent", "ada")
        how = ("fail", task, "--reason", "no") if task == tasks[-1] else ("done", task)
        cli.ok(*how, "--agent", "ada")
    shown = cli.ok("stats", "--by", "epic")
    assert (shown["done"], shown["failed"], shown["failure_rate"]) == (5, 1, 0.167)
    assert [(one["epic"], one["title"], one["done"]) for one in shown["groups"]] == [(epic, "All of it", 5)]
    assert shown["may_end"]["left"] == 1
    told = cli.inside("stats", "--by", "agent", "--since", "2h").out
    for part in (
        "5 tasks done",
        "1 attempt failed, 17% of the reports",
        "may end",
        "1 left, 5 tasks in the last",
        "ada",
    ):
        assert part in told, part
    wrong = cli.inside("stats", "--since", "yesterday")
    assert (wrong.code, "no span such as 90s, 15m, 2h or 7d" in wrong.err) == (2, True)
