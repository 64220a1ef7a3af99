"""What is left out of a reply that would be too long."""

from __future__ import annotations

import pytest

from loom.replies import fit
from loom.replies.fitting import REPLY_CHARACTERS

LONG = "x" * (REPLY_CHARACTERS // 30)


@pytest.mark.parametrize(
    ("key", "beside", "newest_last"),
    [
        ("history", {}, True),
        ("notes", {}, True),
        ("landed", {}, True),
        ("escalations", {"history": []}, True),
        ("escalations", {}, False),
        ("tasks", {}, False),
    ],
)
def test_what_has_its_newest_last_loses_its_oldest(key: str, beside: dict[str, object], newest_last: bool) -> None:
    kept = fit({key: [f"{number} {LONG}" for number in range(40)], **beside})
    assert kept[f"{key}_left_out"] == 20
    assert kept[key][0].startswith("20 " if newest_last else "0 ")
