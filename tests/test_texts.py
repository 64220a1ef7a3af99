"""What is done to texts of strangers before anybody reads them."""

from __future__ import annotations

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
