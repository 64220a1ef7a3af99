"""Every row of one project, copied out and put back in, whatever tables there are.

The rows come as PostgreSQL writes them for COPY, a line each. They are put into a schema beside, of the version that
they are of, which the migrations bring forward like any other; from there they go where they belong, all in one
transaction. So an older backup needs no code of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from loom.db.connection import Connection

DERIVED = frozenset({"task_texts", "task_counts", "landing_leases"})
"""Tables that others fill, and what holds for seconds: it is not copied, and goes with what is replaced."""
APART = frozenset({"access_tokens", "browser_entries", "notify_cursors", "metric_cursors", "metric_totals"})
"""What belongs to the servers rather than to the project: who may come in, whom they have told, and what they have
counted. It stays."""
TOKENS = ("token", "claim_token", "landing_token")
"""Columns that fence off whoever has an older number."""
_LONG = 86_400.0  # seconds, for a statement that goes over a whole table


class Table(NamedTuple):
    """A table with rows of projects, and its columns; `key` is the one that says whose they are. Where it is `numbered`
    the server draws the ids."""

    name: str
    columns: tuple[str, ...]
    numbered: bool

    @property
    def key(self) -> str:
        return "id" if self.name == "projects" else "project_id"

    @property
    def listed(self) -> str:
        """The columns as SQL has them."""
        return ", ".join(f'"{column}"' for column in self.columns)


async def tables(connection: Connection, schema: str | None = None) -> list[Table]:
    """All tables with rows of projects, each behind those that it refers to; of a schema, by default the first of the
    search path."""
    rows = await connection.fetch(
        """
        select c.relname::text as name,
               array(select a.attname::text from pg_attribute a
                      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                      order by a.attnum) as columns,
               exists(select from pg_attribute a
                       where a.attrelid = c.oid and a.attname = 'id' and a.attidentity <> '') as numbered,
               array(select f.confrelid from pg_constraint f
                      where f.contype = 'f' and f.conrelid = c.oid and f.confrelid <> c.oid) as refers,
               c.oid as oid
          from pg_class c
         where c.relnamespace = to_regnamespace(coalesce($1, current_schema())) and c.relkind = 'r'
         order by c.relname
        """,
        schema,
    )
    left = {row["oid"]: row for row in rows if row["name"] == "projects" or "project_id" in row["columns"]}
    ordered: list[Table] = []
    while left:
        free = [oid for oid, row in left.items() if not left.keys() & set(row["refers"])]
        assert free, "no table refers to itself by way of others"
        ordered += [Table(left[oid]["name"], tuple(left[oid]["columns"]), left[oid]["numbered"]) for oid in free]
        left = {oid: row for oid, row in left.items() if oid not in free}
    return ordered


async def migrated(connection: Connection) -> list[int]:
    """The numbers of the migrations that the database has."""
    return [row["number"] for row in await connection.fetch("select number from loom_migrations order by number")]


async def now(connection: Connection) -> float:
    """The server's own time, in seconds since 1970."""
    moment: float = await connection.fetchval("select extract(epoch from clock_timestamp())::float8")
    return moment


async def plain(connection: Connection) -> None:
    """Has values written, until the transaction ends, as every server reads them, whatever the role has set."""
    await connection.execute(
        "set local datestyle = 'ISO, YMD'; set local timezone = 'UTC'; set local intervalstyle = 'postgres';"
        " set local bytea_output = 'hex'; set local extra_float_digits = 1"
    )


async def copy_out(
    connection: Connection, table: Table, project_id: str, sink: Callable[[bytes], Coroutine[Any, Any, None]]
) -> int:
    """Hands the project's rows of a table to `sink`, in pieces; returns how many rows there were."""
    done = await connection.copy_from_query(
        f"select {table.listed} from {table.name} where {table.key} = $1", project_id, output=sink, timeout=_LONG
    )
    return _count(done)


async def copy_in(connection: Connection, schema: str, table: Table, lines: AsyncIterator[bytes]) -> int:
    """Puts rows, as `copy_out` gave them, into a table of the schema that `beside` made; returns how many."""
    done = await connection.copy_to_table(
        table.name, schema_name=schema, columns=table.columns, source=lines, timeout=_LONG
    )
    return _count(done)


async def beside(connection: Connection) -> tuple[str, str]:
    """Makes a schema for rows on their way, and has names mean what is in it; returns its name, and the search path
    of before."""
    before: str = await connection.fetchval("select current_setting('search_path')")
    schema = f"loom_restore_{secrets.token_hex(8)}"
    await connection.execute(f"create schema {schema}; set local search_path = {schema}")
    return schema, before


async def lead_back(connection: Connection, path: str) -> None:
    """Has names mean what they meant before `beside`."""
    await connection.execute("select set_config('search_path', $1, true)", path)


async def drop(connection: Connection, schema: str) -> None:
    """Takes the schema away that `beside` made."""
    assert schema.startswith("loom_restore_")
    await connection.execute(f"drop schema {schema} cascade", timeout=_LONG)


async def lock(connection: Connection, project_id: str) -> None:
    """Lets nobody else restore this project, change its graph or its row, until the transaction ends."""
    await connection.execute("select pg_advisory_xact_lock(hashtextextended('loom.graph:' || $1, 0))", project_id)
    await connection.execute("select from projects where id = $1 for update", project_id)


async def at_work(connection: Connection, project_id: str) -> int:
    """How many connections processes have to this project."""
    count: int = await connection.fetchval(
        "select count(*) from pg_stat_activity where application_name = 'loom/' || $1 and pid <> pg_backend_pid()",
        project_id,
    )
    return count


async def held(connection: Connection, found: Collection[Table], project_id: str) -> dict[str, int]:
    """How many rows of the project each of some tables has, where it has any; its own row aside."""
    counts = {table.name: await count(connection, table, project_id) for table in found if table.name != "projects"}
    return {name: count for name, count in counts.items() if count}


async def count(connection: Connection, table: Table, project_id: str) -> int:
    """How many rows of the project a table has."""
    rows: int = await connection.fetchval(
        f"select count(*) from {table.name} where {table.key} = $1", project_id, timeout=_LONG
    )
    return rows


async def empty(connection: Connection, found: Collection[Table], project_id: str) -> None:
    """Takes away what the project has in these tables, in the reverse of their order; its own row stays."""
    for table in reversed([*found]):
        if table.name != "projects":
            await connection.execute(f"delete from {table.name} where {table.key} = $1", project_id, timeout=_LONG)


async def bring_over(
    connection: Connection, schema: str, found: Collection[Table], project_id: str, raise_by: int
) -> None:
    """Puts the project's rows from the schema that `beside` made where they belong, every token in them raised."""
    for table in found:
        chosen = ", ".join(_raised(one, raise_by) if one in TOKENS else f'"{one}"' for one in table.columns)
        renewed = ", ".join(f'"{one}" = excluded."{one}"' for one in table.columns if one != "id")
        await connection.execute(
            f"insert into {table.name} ({table.listed}) overriding system value"
            f" select {chosen} from {schema}.{table.name} where {table.key} = $1"
            + (f" on conflict (id) do update set {renewed}" if table.name == "projects" else ""),
            project_id,
            timeout=_LONG,
        )


async def count_on(connection: Connection, found: Collection[Table], project_id: str) -> None:
    """Lets no number be drawn again that a row of the project has. Each one is drawn: to set a sequence would take back
    what others have drawn meanwhile."""
    for table in found:
        if table.numbered:
            name = await connection.fetchval("select pg_get_serial_sequence($1, 'id')", table.name)
            await connection.execute(
                f"""
                select count(nextval($2::text::regclass))
                  from generate_series(coalesce(pg_sequence_last_value($2::text::regclass), 0) + 1,
                                       (select max(id) from {table.name} where project_id = $1))
                """,
                project_id,
                name,
                timeout=_LONG,
            )


async def begin_anew(connection: Connection, project_id: str, history: str) -> None:
    """Has the project begin another history of its own on the server whose history this is: its events so far are of
    an earlier one, and no mirror is of this one."""
    await connection.execute(
        """
        update projects set history = $2, pruned_xid = '0', pruned_id = 0,
               history_start = (select coalesce(max(id), 0) from events where project_id = $1)
         where id = $1
        """,
        project_id,
        f"{history}+{secrets.token_hex(8)}",
    )


def _raised(column: str, by: int) -> str:
    """Also the token of what nobody had claimed yet: it was perhaps claimed since. That a task does not land stays."""
    if column == "landing_token":
        return f"case when {column} > 0 then {column} + {by:d} else 0 end"
    return f"{column} + {by:d}"


def _count(tag: str) -> int:
    """The number at the end of what the server says that it has done."""
    return int(tag.rpartition(" ")[2])
