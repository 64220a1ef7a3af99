"""Runs of skills: one row each, written when a run begins and when it ends."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loom.graph.store.transaction import Transaction

if TYPE_CHECKING:
    from loom.db.connection import Connection, Row


class SkillRunStatus(StrEnum):
    """How far a run of a skill is."""

    OPEN = "open"  # the calling agent is to answer
    RUNNING = "running"  # a provider was asked
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SkillRun:
    """One run."""

    id: str
    skill: str
    """The name of the skill."""
    skill_version: str
    """As its file had it when the run began."""
    provider: str
    """Who was asked: `agent` for the calling one, else command, anthropic or openai."""
    model: str | None
    """The one that was asked for, then the one that the provider says it was; None for an agent, and where a command
    chooses it."""
    agent: str
    """Who began it."""
    status: SkillRunStatus
    inputs: dict[str, Any]
    """With their defaults."""
    expects: dict[str, Any]
    """The JSON schema of the answer."""
    output: dict[str, Any] | None
    """The answer; None until it is done."""
    error: str | None
    """Why it has failed; None unless it has."""
    asked: int
    """How often somebody was asked: twice where the first answer was sent back; 0 until it has ended."""
    input_tokens: int | None
    """Of all prompts together; None where the provider does not count them, and until it has ended."""
    output_tokens: int | None
    """Of all answers together; None as `input_tokens`."""
    seconds: float | None
    """From its beginning to its end; None until it has ended."""
    created_at: datetime
    finished_at: datetime | None
    """None while it is open or running."""

    @classmethod
    def from_record(cls, record: Row) -> SkillRun:
        """Builds a run from its row."""
        values = {name: record[name] for name in cls.__slots__}
        for name in ("inputs", "expects", "output"):
            values[name] = None if values[name] is None else json.loads(values[name])
        return cls(**values | {"status": SkillRunStatus(values["status"])})


async def begin(
    tx: Transaction,
    *,
    skill: str,
    version: str,
    provider: str,
    model: str | None,
    agent: str,
    status: SkillRunStatus,
    inputs: str,
    expects: Mapping[str, Any],
) -> SkillRun:
    """Writes that a run begins. `inputs` is JSON text; `status` is open or running."""
    record = await tx.connection.fetchrow(
        """
        insert into skill_runs (project_id, id, skill, skill_version, provider, model, agent, status, inputs, expects)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning *
        """,
        tx.project_id,
        f"run-{secrets.token_hex(8)}",
        skill,
        version,
        provider,
        model,
        agent,
        status,
        inputs,
        json.dumps(expects),
    )
    assert record is not None
    return SkillRun.from_record(record)


async def finish(
    tx: Transaction,
    run_id: str,
    *,
    output: str | None = None,
    error: str | None = None,
    model: str | None = None,
    asked: int = 0,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    seconds: float | None = None,
) -> SkillRun | None:
    """Writes how a run ended: with an output (JSON text) or with an error. None if it had ended before. `seconds`
    defaults to the time since it began."""
    record = await tx.connection.fetchrow(
        """
        update skill_runs
           set status = case when $3::jsonb is null then 'failed' else 'done' end, output = $3, error = $4,
               model = coalesce($5, model), asked = $6, input_tokens = $7, output_tokens = $8,
               seconds = coalesce($9, extract(epoch from loom_now() - created_at)), finished_at = loom_now()
         where project_id = $1 and id = $2 and finished_at is null
        returning *
        """,
        tx.project_id,
        run_id,
        output,
        error,
        model,
        asked,
        input_tokens,
        output_tokens,
        seconds,
    )
    return None if record is None else SkillRun.from_record(record)


async def get(connection: Connection, project_id: str, run_id: str) -> SkillRun | None:
    """One run as it is committed."""
    record = await connection.fetchrow("select * from skill_runs where project_id = $1 and id = $2", project_id, run_id)
    return None if record is None else SkillRun.from_record(record)
