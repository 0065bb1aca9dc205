"""Boosts: what is added to the score of which items, and how retrieval finds those it lifts.

A boosted item may lie far below the nearest ones, so the nearest alone are not enough candidates.
Within the items of one and the same total boost the order is that of the cosines: the nearest of
each such group hold the best of the whole. Retrieval therefore searches once a group.

S = ordinals (one more than the largest).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

MAX_BOOST = 1.0
"""The boosts of one item add up and are cut to -1..1, half the width of the cosines."""

MAX_GROUPS = 16
"""Searches for one list at most. Up to as many different totals the list is exact; with more they
are put into bins of at most 2 / 16, and an item can be missed by one that is shown although its
score is lower by less than that."""

Targets = NDArray[np.bool_] | NDArray[np.int64]


def total_boosts(span: int, boosts: Iterable[tuple[float, Targets]]) -> NDArray[np.float32]:
    """What is added to the score of each ordinal, (span,), cut to -1..1.

    `boosts`: (weight, a mask (span,) or the ordinals that it applies to).
    """
    totals = np.zeros(span, np.float64)
    for weight, targets in boosts:
        totals[targets] += weight
    return np.clip(totals, -MAX_BOOST, MAX_BOOST).astype(np.float32)


def boost_groups(totals_S: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The group (S,) of each ordinal: 0, 1, ... by ascending total; see `MAX_GROUPS`."""
    values = np.unique(totals_S)
    if len(values) <= MAX_GROUPS:
        return np.searchsorted(values, totals_S).astype(np.uint8)
    edges = np.linspace(values[0], values[-1], MAX_GROUPS + 1)[1:-1]
    return np.digitize(totals_S, edges).astype(np.uint8)
