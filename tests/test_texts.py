"""What is taken out of texts before anybody reads them."""

from __future__ import annotations

import pytest

from loom import texts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://loom:s3cret@h:5432/d", "postgresql://loom:***@h:5432/d"),
        ("redis://:s3cret@h", "redis://:***@h"),
        ("unix:///run/redis.sock?password=s3cret&db=1", "unix:///run/redis.sock?password=***&db=1"),
        ("postgresql://u:s3/cr@et@h/d", "postgresql://u:***@h/d"),
        ("could not reach postgresql://u:p@h/d: refused", "could not reach postgresql://u:***@h/d: refused"),
        ("redis://localhost:6379", "redis://localhost:6379"),
    ],
)
def test_mask_hides_passwords_only(text: str, shown: str) -> None:
    assert texts.mask(text) == shown
