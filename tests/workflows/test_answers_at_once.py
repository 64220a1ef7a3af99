"""Two who answer a run at the same moment: the second waits for the first, and sees what he has done."""

from __future__ import annotations

from pathlib import Path

import pytest

from loom.db.connection import Pool
from loom.exceptions import WorkflowStateError
from loom.graph.front import Loom
from loom.workflows import runs
from tests.conftest import Opener
from tests.graph.conftest import Gate, Rival, gate, rival, waits
from tests.graph.conftest import begun as meanwhile
from tests.skills.conftest import bare_shop, directory, home
from tests.workflows.conftest import SKILL, begun, put

__all__ = ["bare_shop", "directory", "gate", "home", "rival"]

STEPS = """
- {id: ask, type: confirm, message: Go on?}
- {id: again, type: confirm, message: Sure?}
"""


async def test_a_question_answered_twice_at_once_is_answered_once(
    loom: Loom, open_loom: Opener, pool: Pool, gate: Gate
) -> None:
    other = await open_loom("other")
    run = await begun(loom, STEPS)
    await gate.shut("new.type = 'workflow.step_completed'")
    async with meanwhile(runs.confirm(loom, run.id, yes=True)) as one:
        await waits(pool, one)
        async with meanwhile(runs.confirm(other, run.id, yes=True)) as two:
            await waits(pool, two, 2)
            await gate.open()
            assert (await one).position == 1
            with pytest.raises(WorkflowStateError, match="waits for no yes or no"):
                await two


async def test_an_answer_does_not_count_for_what_is_asked_anew_meanwhile(
    bare_shop: Loom, directory: Path, pool: Pool, rival: Rival
) -> None:
    put(directory, SKILL, "shout.md", "skills")
    run = await begun(bare_shop, "- {id: shout, type: skill, skill: shout, inputs: {words: hi}}")
    await rival.execute("select from workflow_runs for no key update")
    async with meanwhile(runs.answer(bare_shop, run.id, {"said": "HI"})) as answering:
        await waits(pool, answering)
        await rival.execute("update workflow_steps set started_at = loom_now()")
        await rival.commit()
        assert (await answering).status == "waiting"
