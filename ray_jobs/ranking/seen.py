"""What counts as seen, and what was bought and may be shown again. S = ordinals that a user saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Seen:
    """What a user saw: sorted ordinals, the bits of the kinds of events that named each, whether it
    was bought, and when last (ms since 1970)."""

    ordinals_S: NDArray[np.int64]
    kinds_S: NDArray[np.uint8]
    is_bought_S: NDArray[np.bool_]
    bought_ms_S: NDArray[np.int64]

    def under(self, ordinals_S: NDArray[np.int64]) -> Seen:
        """The same under these ordinals; what comes under one together counts together."""
        together, where_S = np.unique(ordinals_S, return_inverse=True)
        kinds = np.zeros(len(together), np.uint8)
        is_bought = np.zeros(len(together), np.bool_)
        bought_ms = np.full(len(together), np.iinfo(np.int64).min, np.int64)
        np.bitwise_or.at(kinds, where_S, self.kinds_S)
        np.logical_or.at(is_bought, where_S, self.is_bought_S)
        np.maximum.at(bought_ms, where_S, self.bought_ms_S)
        return Seen(together, kinds, is_bought, bought_ms)


@dataclass(frozen=True, slots=True)
class SeenRule:
    """`kinds`: bits of the kinds of events that make an item seen. `buy_again_ms`: so long after
    its last purchase a bought item is shown again, whatever else was seen of it; None: never."""

    kinds: int
    buy_again_ms: int | None = None


def hidden_as_seen(
    seen: Seen,
    rules: Sequence[SeenRule],
    rule_S: NDArray[np.int64],
    as_of_ms: int,
) -> NDArray[np.int64]:
    """The seen ordinals that lists leave out, in their order. `rule_S`: which of `rules` is each
    ordinal's."""
    kinds_R = np.array([rule.kinds for rule in rules], np.uint8)
    hidden: NDArray[np.int64]
    counts_S = seen.kinds_S & kinds_R[rule_S] != 0
    if all(rule.buy_again_ms is None for rule in rules):
        hidden = seen.ordinals_S[counts_S]
        return hidden
    never = -1
    waits_R = np.array(
        [never if rule.buy_again_ms is None else rule.buy_again_ms for rule in rules], np.int64
    )
    waits_S = waits_R[rule_S]
    # At once is at once, also by the clock of a replica that is behind the one that sold it.
    over_S = (waits_S == 0) | ((waits_S > 0) & (seen.bought_ms_S + waits_S <= as_of_ms))
    hidden = seen.ordinals_S[counts_S & ~(seen.is_bought_S & over_S)]
    return hidden
