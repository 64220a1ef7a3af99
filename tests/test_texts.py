"""What is done to texts of strangers before anybody reads them."""

from __future__ import annotations

import pytest

from loom import texts


def test_a_text_that_is_too_long_ends_early_and_says_so() -> None:
    assert texts.shorten("abcde", 5) == "abcde"
    assert texts.shorten("abcdef", 5) == "abcd…"
    assert texts.shorten("abcde", 5, "more elsewhere") == "abcde"
    assert texts.shorten("abcdef", 5, "more elsewhere") == "abcd… (more elsewhere)"


def test_a_text_on_one_line_has_its_words_and_nothing_unseen() -> None:
    assert texts.one_line("a\r\n b\t\x1b[31mc\u202ed\n") == "a b [31mcd"


def test_a_quoted_text_is_on_one_line_and_can_be_shown() -> None:
    assert texts.quote("a\nb\x1b") == "“a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}”"
    assert texts.quote("x" * 61) == "“" + "x" * 59 + "…”"


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
