"""What BERT reads: one cleaning for items, searches and comments, by night and by day.

The digest of a cleaned text is the key of its vector, so any change of `clean` or `compose` that
changes an output must raise CLEANING_VERSION: it is part of the encoder id.
"""

import hashlib
import html
import re
import unicodedata

CLEANING_VERSION = 1

MAX_CLEAN_CHARS = 20_000
"""A longer text is cut: BERT reads the first 256 tokens, and cleaning must stay short."""

# Only what looks like markup: "<b>", "</p>", "<!-- -->"; "a < b" and "<3" stay.
_TAG = re.compile(r"<!--.{0,2000}?-->|</?[A-Za-z][^<>]{0,2000}>", re.DOTALL)
_SPACE = re.compile(r"\s+")


def clean(text: str) -> str:
    """Plain text in NFC: entities unescaped, tags and control characters gone, spaces single.

    Cleaning twice gives the same as cleaning once for a text without escaped markup. Lone
    surrogates (which no UTF-8 holds) become spaces.
    """
    plain = _TAG.sub(" ", html.unescape(text[:MAX_CLEAN_CHARS]))
    kept = "".join(" " if unicodedata.category(char) in _DROPPED else char for char in plain)
    return _SPACE.sub(" ", unicodedata.normalize("NFC", kept)).strip()


# Controls (with tab and newline), surrogates, private use and unassigned code points. Formats (Cf)
# stay: they join emoji and shape scripts.
_DROPPED = frozenset({"Cc", "Cs", "Co", "Cn"})


def compose(title: str, text: str, category: str | None) -> str:
    """The cleaned text that BERT reads for an item: title, category, text, in that order.

    The title comes first because BERT reads the first 256 tokens only. A category that the text
    names already is not said twice.
    """
    body, name = clean(text), clean(category or "")
    head = [clean(title), "" if name.casefold() in body.casefold() else name]
    return ". ".join(part for part in (*(part.rstrip(". ") for part in head), body) if part)


def text_digest(cleaned: str) -> str:
    """BLAKE2b-128 of the cleaned text, 32 hex characters. Covers nothing but the text."""
    return hashlib.blake2b(cleaned.encode("utf-8"), digest_size=16).hexdigest()
