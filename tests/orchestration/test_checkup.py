"""What doctor says in each face."""

from __future__ import annotations

from loom.graph.front import Loom
from loom.orchestration import checkup
from loom.wording import Words


async def test_what_is_to_be_done_names_calls_as_data_which_each_face_words(loom: Loom) -> None:
    dies, asks, waits = [await loom.create(title) for title in ("dies", "asks", "waits")]
    await loom.fail(dies.id, "no luck", retry=False)
    await loom.escalate(asks.id, "Which?")
    await loom.defer(waits.id)
    told = {one.check: one.mend for one in await checkup.graph(loom) if one.mend}
    calls = {check: [call.verb for call in mend.calls] for check, mend in told.items() if isinstance(mend, Words)}
    assert calls == {dies.id: ["resolve"], "escalations": ["status"], "deferred": ["status"]}
    assert not [mend for mend in told.values() if "loom " in mend]
