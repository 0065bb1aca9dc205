"""What BERT reads is plain, and its digest names it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.encoders.item_text import MAX_CLEAN_CHARS, clean, compose, text_digest


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("<p>Fish &amp; <b>chips</b></p>", "Fish & chips"),
        ("a\u0000b\tc\r\nd\u009fe", "a b c d e"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("1 < 2 and 3 > 2, I <3 it", "1 < 2 and 3 > 2, I <3 it"),
        ("left<!-- not\nshown -->right", "left right"),
        ("a\ud800b", "a b"),
        ("  \u00a0 \u2003 ", ""),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
    ],
)
def test_markup_controls_and_odd_spaces_never_reach_bert(raw: str, plain: str) -> None:
    assert clean(raw) == plain


@given(st.text(max_size=300))
def test_any_text_cleans_to_something_that_utf8_holds(raw: str) -> None:
    cleaned = clean(raw)
    cleaned.encode("utf-8")
    assert cleaned == cleaned.strip()
    assert "  " not in cleaned


def test_cleaning_is_bounded() -> None:
    assert len(clean("x" * 1_000_000)) == MAX_CLEAN_CHARS
    assert clean("<" * 100_000) == "<" * MAX_CLEAN_CHARS  # no quadratic search for a closing ">"


def test_an_item_reads_as_title_category_text() -> None:
    assert compose("Heat.", "Two men.", "Crime") == "Heat. Crime. Two men."
    assert compose("Heat", "", None) == "Heat"
    assert compose("Heat", "A crime film", "Crime") == "Heat. A crime film"


@given(st.text(max_size=50), st.text(max_size=50), st.none() | st.text(max_size=20))
def test_a_composed_text_is_clean(title: str, text: str, category: str | None) -> None:
    composed = compose(title, text, category)
    assert composed == composed.strip()
    composed.encode("utf-8")


def test_the_digest_covers_the_text_and_nothing_else() -> None:
    assert text_digest("Heat") == text_digest("Heat")
    assert text_digest("Heat") != text_digest("heat")
    assert len(text_digest("")) == 32
    # Stored in databases: must never change for the same text.
    assert text_digest("Heat") == "3f34d5bcc916822840623d82f3ae63ea"
