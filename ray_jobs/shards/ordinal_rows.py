"""From an ordinal to its row among sorted ones: by a table where they are dense, else by search.

A binary search among a million ordinals misses the cache at most of its twenty steps; a list looks
up a thousand of them. Four bytes an ordinal of the span. N = asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.merge import Ordinals

SPARSE = 4
"""With more ordinals in the span than so many times those that are there, they are searched."""


class OrdinalRows:
    """Immutable; shared between threads."""

    def __init__(self, ordinals: Ordinals) -> None:
        """`ordinals`: ascending, not negative, each once."""
        self.ordinals = ordinals
        self._span = int(ordinals[-1]) + 1 if len(ordinals) else 0
        self.table_S = np.zeros(0, np.int32)
        """The row of each ordinal of the span, -1 without one; empty where they are searched."""
        if 0 < self._span <= SPARSE * len(ordinals) and len(ordinals) < 2**31:
            table_S = np.full(self._span, -1, np.int32)
            table_S[ordinals] = np.arange(len(ordinals), dtype=np.int32)
            self.table_S = table_S

    def of(self, ordinals: Ordinals) -> NDArray[np.int64]:
        """The row (N,) of each ordinal, -1 where it is not there."""
        if not len(self.table_S):
            return self._searched(ordinals)
        rows = self.table_S.take(ordinals, mode="clip").astype(np.int64)
        outside = (ordinals < 0) | (ordinals >= self._span)
        if outside.any():
            rows[outside] = -1
        return rows

    def has(self, ordinals: Ordinals) -> NDArray[np.bool_]:
        """For each ordinal (N,), whether it is there."""
        there: NDArray[np.bool_] = self.of(ordinals) >= 0
        return there

    def _searched(self, ordinals: Ordinals) -> NDArray[np.int64]:
        if not self._span:
            return np.full(len(ordinals), -1, np.int64)
        rows = np.minimum(np.searchsorted(self.ordinals, ordinals), len(self.ordinals) - 1)
        return np.where(self.ordinals[rows] == ordinals, rows, -1).astype(np.int64)
