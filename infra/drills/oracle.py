"""The brute-force twin of a catalog: every live item in one matrix, every answer a product.

N = ordinals, E = text width, D = dimension.
"""

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.user_encoder import UserEncoder

MIN_ROWS = 1_024


class Oracle:
    """Live items by ordinal, under one generation's weights. `group`: what a filter asks for."""

    def __init__(self, text_dim: int, encoder: UserEncoder) -> None:
        self._texts_NE = np.zeros((MIN_ROWS, text_dim), np.float32)
        self.alive = np.zeros(MIN_ROWS, np.bool_)
        self._groups = np.full(MIN_ROWS, -1, np.int64)
        self.project(encoder)

    def project(self, encoder: UserEncoder) -> None:
        """From now on as that encoder sees the items."""
        self._encoder = encoder
        everything = np.arange(len(self.alive), dtype=np.int64)
        self.vectors_ND = encoder.item_vectors(self._texts_NE, everything)

    def put(self, ordinals: list[int], texts_NE: NDArray[np.float32], groups: list[int]) -> None:
        """The items of these ordinals are there, as given."""
        while ordinals and max(ordinals) >= len(self.alive):
            for name in ("_texts_NE", "alive", "_groups", "vectors_ND"):
                array = getattr(self, name)
                setattr(self, name, np.concatenate([array, np.zeros_like(array)]))
        rows = np.array(ordinals, np.int64)
        self._texts_NE[rows], self.alive[rows], self._groups[rows] = texts_NE, True, groups
        self.vectors_ND[rows] = self._encoder.item_vectors(texts_NE, rows)

    def delete(self, ordinal: int) -> None:
        """The item of that ordinal is gone for good."""
        self.alive[ordinal] = False

    def may_show(self, group: int | None, excluded: NDArray[np.int64]) -> NDArray[np.bool_]:
        """What a search may show, by ordinal."""
        mask = self.alive.copy() if group is None else self.alive & (self._groups == group)
        mask[excluded] = False
        return mask

    def best(
        self, query_D: NDArray[np.float32], k: int, may_show: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ordinals and scores of the k best, best first."""
        ordinals = np.flatnonzero(may_show)
        scores = self.vectors_ND[ordinals] @ query_D
        if len(ordinals) > k:
            best = np.argpartition(-scores, k - 1)[:k]
            ordinals, scores = ordinals[best], scores[best]
        order = np.lexsort((ordinals, -scores))
        return ordinals[order], scores[order]
