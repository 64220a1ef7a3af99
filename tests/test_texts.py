"""What is done to texts of strangers before anybody reads them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom import texts

UNSEEN = (
    "\x00\x07\x1b\x7f\x85\x9b"  # control characters
    "\xad\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u180e"  # hyphens and fillers
    "\u061c\u200e\u200f\u202a\u202e\u2066\u2069"  # direction
    "\u200b\u2060\u2061\u2064\u2065\u206a\u206f\ufeff\ufff0\ufff9\ufffa\ufffb"
    "\ufe00\ufe0e\ufe0f\U000e0100\U000e01ef\u180b\u180f"  # variation selectors
    "\U000e0000\U000e0001\U000e0020\U000e0041\U000e007f\U000e0fff\U0001bca0\U0001d173"  # tags, and the rest
)
JOINED = (
    "می‌خواهم",  # Persian, with a non-joiner
    "क्‍ष",  # Devanagari, with a joiner behind the virama
    "র‍্যাব",  # Bengali, with one before it
    "ශ්‍රී",  # Sinhala
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",  # a family
    "\U0001f469\U0001f3fd\u200d\u2695\ufe0f",  # a doctor with a colour of skin
    "\u2764\ufe0f\u200d\U0001f525 \u26a0\ufe0f \u2705",
    "1\ufe0f\u20e3 #\ufe0f\u20e3",
    "\U0001f1e9\U0001f1ea",  # a flag
)


@pytest.mark.parametrize("sign", UNSEEN, ids=lambda sign: f"U+{ord(sign):04X}")
def test_what_cannot_be_seen_goes(sign: str) -> None:
    assert texts.clean(f"a{sign}b{sign}{sign}") == "ab"


@pytest.mark.parametrize("text", JOINED)
def test_what_scripts_and_emoji_need_stays(text: str) -> None:
    assert texts.clean(f"so {text} so") == f"so {text} so"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\u200db", "ab"),
        ("م\u200c\u200cی", "می"),
        ("٣\u200c٣", "٣٣"),  # digits
        ("\u1820\u180b\u200d\u1821", "\u1820\u1821"),
        ("\U0001f525\ufe0f\ufe0f", "\U0001f525\ufe0f"),
        ("\U0001f525\u200d", "\U0001f525"),
        ("\U0001f525\u200d\u200d\U0001f525", "\U0001f525\U0001f525"),
        ("1\ufe0f2\ufe0f", "12"),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0001f3f4"),
    ],
)
def test_in_other_places_it_does_not_stay(text: str, left: str) -> None:
    assert texts.clean(text) == left


def test_nothing_that_formats_is_missed() -> None:
    """Of the characters of the category Cf only those stay that have a shape of their own."""
    formats = {chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cf"}
    seen = {sign for sign in formats if texts.clean(sign)}
    shapes = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
    assert {ord(sign) for sign in seen} <= shapes


@given(
    st.text(st.sampled_from("ab1 \n\u200c\u200d\ufe0f\u20e3\u180b\u1820میक्\U0001f525\U0001f3fd\U0001f469\U000e0041"))
)
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    cleaned = texts.clean(text)
    assert texts.clean(cleaned) == cleaned


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
        ("http://a/,redis://:p@q@h\nme@h postgresql://u:p@h", "http://a/,redis://:***@h\nme@h postgresql://u:***@h"),
        ("mail://me@h:1", "mail://me@h:1"),
        ("redis://localhost:6379", "redis://localhost:6379"),
    ],
)
def test_mask_hides_passwords_only(text: str, shown: str) -> None:
    assert texts.mask(text) == shown


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "part", ["://:", "token=", "-eyJ", "bearer ", "-----BEGIN ", "sk-", "\x1b[0", "\U0001f525\u200d"]
)
def test_a_text_is_gone_through_once_whatever_is_in_it(part: str) -> None:
    """Else whoever shows what an agent has printed stands still for as long as the agent likes."""
    texts.outward(texts.colourless(part * 300_000))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("use sk-ant-api03-abcdefgh_ijkl now", "use *** now"),
        ("ghp_abcdefghijklmnopqrstuv1234, AKIAABCDEFGHIJKLMNOP", "***, ***"),
        (f"loom_0123456789ab_{'x' * 43}", "***"),
        ("Authorization: Bearer abcdefghijklmnop.q", "Authorization: Bearer ***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nrest", "***\nrest"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE", "***"),
        ("postgresql://me:hunter2@db/x\u202e", "postgresql://me:***@db/x"),
        ("task-sk-short, the risk-of-being-wrong-here, AKIA, Bearer of news", None),
    ],
)
def test_what_leaves_the_machine_has_no_keys_in_it(text: str, shown: str | None) -> None:
    assert texts.outward(text) == (text if shown is None else shown)
