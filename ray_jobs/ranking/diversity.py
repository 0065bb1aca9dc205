"""Diversity: the best of a list in an order that avoids what is like something above it.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), one item after the other:

    next = argmax over i that is left of
           (1 - d) * score(i)  -  d * max over the chosen j of cos(i, j)

Scores are spread as cosines are, so d is a share: 0 is the order of the scores, 1 looks at
likeness alone. Only the first POOL of a list are ordered anew; pages are cut from that one order.

Shapes: N items, D dimension.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POOL = 200


def diverse_order(
    scores_N: NDArray[np.float32], vectors_ND: NDArray[np.float32], diversity: float
) -> NDArray[np.intp]:
    """Rows (N,) in their new order; `scores_N` descending, vectors of length 1 (or 0: like none).

    Ties go to the higher score. Raises ValueError for a diversity outside 0..1.
    """
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity must be in 0..1, got {diversity}")
    count = len(scores_N)
    likeness = np.zeros(count, np.float32)
    relevance = (1 - diversity) * scores_N
    order = np.zeros(count, np.intp)
    left = np.ones(count, np.bool_)
    for place in range(count):
        value = np.where(left, relevance - diversity * likeness, -np.inf)
        row = int(np.argmax(value))
        order[place], left[row] = row, False
        cosines = vectors_ND @ vectors_ND[row]
        likeness = cosines if place == 0 else np.maximum(likeness, cosines)
    return order
