"""From an ordinal to its row among sorted ones: by a table where they are dense, else by search.

A binary search among a million ordinals misses the cache at most of its twenty steps; a list looks
up a thousand of them. Four bytes an ordinal of the span. N = asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import INTS, INTS32, kernel
from ray_jobs.order import row_in
from ray_jobs.shards.merge import Ordinals

SPARSE = 4
"""With more ordinals in the span than so many times those that are there, they are searched."""


class OrdinalRows:
    """Immutable; shared between threads."""

    def __init__(self, ordinals: Ordinals) -> None:
        """`ordinals`: ascending, not negative, each once."""
        self.ordinals = ordinals
        span = int(ordinals[-1]) + 1 if len(ordinals) else 0
        self.table_S = np.zeros(0, np.int32)
        """The row of each ordinal of the span, -1 without one; empty where they are searched."""
        if 0 < span <= SPARSE * len(ordinals) and len(ordinals) < 2**31:
            table_S = np.full(span, -1, np.int32)
            table_S[ordinals] = np.arange(len(ordinals), dtype=np.int32)
            self.table_S = table_S

    def of(self, ordinals: Ordinals) -> NDArray[np.int64]:
        """The row (N,) of each ordinal, -1 where it is not there."""
        wanted = np.ascontiguousarray(ordinals)  # every tenth of an array is one, too
        rows: NDArray[np.int64] = _rows(wanted, self.table_S, self.ordinals)
        return rows

    def has(self, ordinals: Ordinals) -> NDArray[np.bool_]:
        """For each ordinal (N,), whether it is there."""
        there: NDArray[np.bool_] = self.of(ordinals) >= 0
        return there


@kernel(INTS, INTS32, INTS)
def _rows(
    wanted_N: NDArray[np.int64], table_S: NDArray[np.int32], ordinals: NDArray[np.int64]
) -> NDArray[np.int64]:
    rows_N = np.full(len(wanted_N), -1, np.int64)
    for place in range(len(wanted_N)):
        ordinal = wanted_N[place]
        if len(table_S):
            if 0 <= ordinal < len(table_S):
                rows_N[place] = table_S[ordinal]
        else:
            rows_N[place] = row_in(ordinals, ordinal)
    return rows_N
