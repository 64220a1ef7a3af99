"""Two who answer a run at the same moment: the second waits for the first, and sees what he has done."""

from __future__ import annotations

import pytest

from loom.db.connection import Pool
from loom.exceptions import WorkflowStateError
from loom.graph.front import Loom
from loom.workflows import runs
from tests.conftest import Opener
from tests.graph.conftest import Gate, gate, waits
from tests.graph.conftest import begun as meanwhile
from tests.workflows.conftest import begun

__all__ = ["gate"]

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
