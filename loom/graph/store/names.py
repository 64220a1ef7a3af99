"""By what people call tasks: which ones a name stands for, and the titles of some."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.db.connection import Connection

_MOST = 6  # tasks that are looked up of those that a name may stand for


async def named(connection: Connection, project_id: str, text: str) -> list[str]:
    """The tasks whose id begins so, with or without `loom-`; else the one that an import has known by this name, else
    those whose name there ends in it, whatever file it came from. The case does not matter. At most a few: whoever asks
    wants one."""
    prefix = text.lower().removeprefix("loom-")
    begun: list[str] = []
    if re.fullmatch("[0-9a-f]{1,8}", prefix):
        records = await connection.fetch(
            "select id from tasks where project_id = $1 and id >= $2 and id < $2 || 'g' order by id limit $3",
            project_id,
            f"loom-{prefix}",
            _MOST,
        )
        begun = [record["id"] for record in records]
        if begun and not text.isdecimal():  # a number is also what trackers call a task: then both are told
            return begun
    whole = await connection.fetchval("select id from tasks where project_id = $1 and origin_id = $2", project_id, text)
    if whole is not None:
        return list(dict.fromkeys([*begun, whole]))
    called = await connection.fetch(CALLED, project_id, *_endings(text.lower()), _MOST)
    names = [record["id"] for record in called if record["name"] == text.lower()] or [record["id"] for record in called]
    return list(dict.fromkeys([*begun, *sorted(names)]))


# Names are looked for backwards, as their index has them, each way by itself and no further than is shown.
CALLED = """
select f.id, f.name
  from unnest($2::text[], $3::text[], $4::text[]) w(low, high, begin) cross join lateral (
        select t.id, lower(t.origin_id) as name from tasks t
         where t.project_id = $1 and t.origin_id is not null
           and reverse(lower(t.origin_id)) collate "C" >= w.low and reverse(lower(t.origin_id)) collate "C" < w.high
           and starts_with(lower(t.origin_id), w.begin)
         order by reverse(lower(t.origin_id)) collate "C" limit $5
       ) f
"""


def _endings(name: str) -> tuple[list[str], list[str], list[str]]:
    """Between what the names lie, backwards, that are or end in a name, and how each begins: as it stands, or behind
    a sign before which a file or a list is named; taskmaster:master:5 is taskmaster/tasks.json#master:5, of some file.
    """
    tool, _, rest = name.partition(":")
    ways = [(name, ""), *((f"{sign}{name}", "") for sign in "/#:"), (f"#{rest}", f"{tool}/")]
    ends = [ending[::-1] for ending, _ in ways]
    above = [f"{ends[0]}\x01", *(f"{end[:-1]}{chr(ord(end[-1]) + 1)}" for end in ends[1:])]
    return ends, above, [begin for _, begin in ways]


async def titles(connection: Connection, project_id: str, limit: int) -> dict[str, str]:
    """The titles of so many tasks by id, the unfinished ones first, then those that were finished last."""
    return {row["id"]: row["title"] for row in await connection.fetch(TITLES, project_id, limit)}


async def titles_of(connection: Connection, project_id: str, task_ids: Sequence[str]) -> dict[str, str]:
    """The titles of these tasks by id."""
    query = "select id, title from tasks where project_id = $1 and id = any($2::text[])"
    return {row["id"]: row["title"] for row in await connection.fetch(query, project_id, list(task_ids))}


TITLES = """
select id, title from (
    (select id, title, 1 as rank from tasks where project_id = $1 and status = 'claimed' limit $2)
    union all
    (select id, title, 2 from tasks where project_id = $1 and status = 'pending'
      order by priority, ready_at, id desc limit $2)
    union all
    (select id, title, 3 from tasks where project_id = $1 and status = 'failed' limit $2)
    union all
    (select id, title, 4 from tasks where project_id = $1 and status in ('blocked', 'epic')
      order by priority, id limit $2)
    union all
    (select id, title, 5 from tasks where project_id = $1 and done_at is not null order by done_at desc limit $2)
    order by rank limit $2) t
"""
