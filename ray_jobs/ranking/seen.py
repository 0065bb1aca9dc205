"""What counts as seen, and what was bought and may be shown again. S = ordinals that a user saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SeenRule:
    """`kinds`: bits of the kinds of events that make an item seen. `buy_again_ms`: so long after
    its last purchase a bought item is shown again, whatever else was seen of it; None: never."""

    kinds: int
    buy_again_ms: int | None = None


def hidden_as_seen(
    seen_S: NDArray[np.int64],
    kinds_S: NDArray[np.uint8],
    is_bought_S: NDArray[np.bool_],
    bought_ms_S: NDArray[np.int64],
    rules: Sequence[SeenRule],
    rule_S: NDArray[np.int64],
    as_of_ms: int,
) -> NDArray[np.int64]:
    """The seen ordinals that lists leave out, in their order. `rule_S`: which of `rules` is each
    ordinal's."""
    kinds_R = np.array([rule.kinds for rule in rules], np.uint8)
    never = -1
    waits_R = np.array(
        [never if rule.buy_again_ms is None else rule.buy_again_ms for rule in rules], np.int64
    )
    waits_S = waits_R[rule_S]
    # At once is at once, also by the clock of a replica that is behind the one that sold it.
    over_S = (waits_S == 0) | ((waits_S > 0) & (bought_ms_S + waits_S <= as_of_ms))
    hidden: NDArray[np.int64] = seen_S[(kinds_S & kinds_R[rule_S] != 0) & ~(is_bought_S & over_S)]
    return hidden
