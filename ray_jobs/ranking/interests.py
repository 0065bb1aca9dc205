"""What a user is interested in, in words: the categories and terms of the items nearest to them.

    weight(term) = share of the nearest items with it * log(1 / share of the catalog with it)

That is tf-idf (Sparck Jones, "A statistical interpretation of term specificity", 1972) of the
nearest titles taken as one document, so no list of stop words is needed in any language. Shares of
the catalog are those of a sample, evenly taken.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import regex

NEAREST = 100
"""Items that speak for a user."""

SAMPLED_ITEMS = 20_000
MOST = 10
"""Categories, and terms, that are told."""

LEAST_ITEMS = 2
"""Of the nearest that must have a term: one title alone says nothing."""

_WORD = regex.compile(r"\p{L}(?:[\w\p{M}'’]*[\w\p{M}])?")
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+"
)
"""Scripts whose words are not parted by spaces, so each two neighbours are a term (as in Lucene's
CJKBigramFilter)."""
_CHARACTER = regex.compile(r"\X")
"""As it is seen: with its marks."""


@dataclass(frozen=True)
class Interests:
    """Shares of the nearest items by category, and terms with their weights; the largest first."""

    categories: Sequence[tuple[str, float]]
    terms: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class TermShares:
    """In how many of `titles` each term occurs."""

    counts: Counter[str]
    titles: int

    @classmethod
    def of(cls, titles: Iterable[str]) -> TermShares:
        counts: Counter[str] = Counter()
        number = 0
        for title in titles:
            counts.update(terms_of(title))
            number += 1
        return cls(counts, number)

    def rarity(self, term: str) -> float:
        """log(1 / share), of a term that was never met as if it had been met once more."""
        return math.log((self.titles + 1) / (self.counts[term] + 1))


def terms_of(title: str) -> set[str]:
    """Its words in lower case, without numbers and single letters; pairs of characters of writing
    that has no spaces."""
    text = unicodedata.normalize("NFC", title).casefold()
    found: set[str] = set()
    for run in _UNSPACED.findall(text):
        characters = _CHARACTER.findall(run)
        found |= {"".join(characters[at : at + 2]) for at in range(max(1, len(characters) - 1))}
    words = _WORD.findall(_UNSPACED.sub(" ", text))
    return found | {word for word in words if len(word) > 1}


def interests_of(
    titles: Sequence[str], categories: Sequence[str | None], catalog: TermShares
) -> Interests:
    """What the nearest items have in common, by the title and the category of each."""
    of_category = Counter(category for category in categories if category is not None)
    of_term: Counter[str] = Counter()
    for title in titles:
        of_term.update(terms_of(title))
    number = max(1, len(titles))
    weights = {
        term: count / number * catalog.rarity(term)
        for term, count in of_term.items()
        if count >= LEAST_ITEMS
    }
    return Interests(
        _largest({category: count / number for category, count in of_category.items()}),
        _largest({term: weight for term, weight in weights.items() if weight > 0}),
    )


def _largest(weights: dict[str, float]) -> list[tuple[str, float]]:
    """Ties by name."""
    return sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST]
