"""The two kinds of store inside a delta: exact, and by the lists of the base's coarse quantizer.

Both are immutable and answer the same three questions, so that `search` treats them as one more
shard. K = results, D = dimension, N = vectors, L = lists, Q = queries.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.faiss_index import (
    AllowedOrdinals,
    Assignment,
    StoredVectors,
    nearest_lists,
    score_rows,
)
from ray_jobs.shards.merge import Ordinals, Ranked, in_sorted
from ray_jobs.shards.placement import Family
from ray_jobs.shards.stored_dots import scores_of_lists


class Block(Protocol):
    """A store of vectors by ordinal. `ordinals` is sorted."""

    @property
    def ordinals(self) -> Ordinals: ...

    def best(
        self,
        query_D: NDArray[np.float32],
        k: int,
        least: float,
        assignment: Assignment | None,
        allowed: AllowedOrdinals | None,
    ) -> Ranked:
        """Of the k best those that score `least` or more, in no order: (<=k,), (<=k,)."""
        ...

    def vectors_of(self, ordinals: Ordinals) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """(found (N,), vectors (N, D) with zero rows where not found)."""
        ...

    def dots_of(
        self, ordinals: Ordinals, queries_QD: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """(found (N,), inner products (N, Q), zero rows where not found)."""
        ...

    def changed(
        self, gone: Ordinals, ordinals: Ordinals, vectors_ND: NDArray[np.floating[Any]]
    ) -> Block:
        """A new block without `gone` and with the new rows, in the precision that it stores. All
        three sorted by ordinal."""
        ...


_FIRST: Ordinals = np.zeros(1, np.int64)


class ExactBlock:
    """Vectors in one array, as the family stores them, every one of them scored."""

    def __init__(self, ordinals: Ordinals, rows_ND: NDArray[np.floating[Any]]) -> None:
        ordinals.setflags(write=False)
        rows_ND.setflags(write=False)
        self._ordinals = ordinals
        self.rows_ND = rows_ND
        self._halves_ND = rows_ND.view(np.uint16) if rows_ND.dtype == np.float16 else None
        self._begins_1 = np.array([0, len(rows_ND)])

    @property
    def ordinals(self) -> Ordinals:
        return self._ordinals

    @classmethod
    def empty(cls, family: Family, dim: int) -> ExactBlock:
        stored = np.float32 if family == "Flat" else np.float16
        return cls(np.empty(0, np.int64), np.empty((0, dim), stored))

    def best(
        self,
        query_D: NDArray[np.float32],
        k: int,
        least: float,
        assignment: Assignment | None,
        allowed: AllowedOrdinals | None,
    ) -> Ranked:
        if self._halves_ND is not None:  # one list, and all of it
            above, scores = scores_of_lists(self._halves_ND, self._begins_1, _FIRST, query_D, least)
        else:
            scores = score_rows(self.rows_ND, query_D)
            above = np.flatnonzero(scores >= least)
            scores = scores[above]
        return _best((scores, self._ordinals[above]), k, allowed)

    def vectors_of(self, ordinals: Ordinals) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        found = in_sorted(ordinals, self._ordinals)
        vectors_ND = np.zeros((len(ordinals), self.rows_ND.shape[1]), dtype=np.float32)
        vectors_ND[found] = self.rows_ND[np.searchsorted(self._ordinals, ordinals[found])]
        return found, vectors_ND

    def dots_of(
        self, ordinals: Ordinals, queries_QD: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        found = in_sorted(ordinals, self._ordinals)
        dots_NQ = np.zeros((len(ordinals), len(queries_QD)), np.float32)
        rows = np.searchsorted(self._ordinals, ordinals[found])
        vectors_ND = self.rows_ND[rows].astype(np.float32, copy=False)
        dots_NQ[found] = np.vecdot(vectors_ND[:, None], queries_QD[None])
        return found, dots_NQ

    def changed(
        self, gone: Ordinals, ordinals: Ordinals, vectors_ND: NDArray[np.floating[Any]]
    ) -> ExactBlock:
        kept = ~in_sorted(self._ordinals, gone)
        all_ordinals = np.concatenate([self._ordinals[kept], ordinals])
        order = np.argsort(all_ordinals, kind="stable")
        rows_ND = np.concatenate([self.rows_ND[kept], vectors_ND.astype(self.rows_ND.dtype)])
        return ExactBlock(all_ordinals[order], rows_ND[order])


class ListedBlock:
    """Vectors in half precision, those of one list of the base together: all in a query's lists are
    scored in one loop, and what is good enough is looked at further."""

    def __init__(
        self,
        coarse: Any,
        begins_L: NDArray[np.int64],
        ordinals_N: Ordinals,
        codes_ND: NDArray[np.float16],
    ) -> None:
        """Row n is of list l where `begins_L[l] <= n < begins_L[l + 1]`."""
        self._coarse = coarse
        self._begins_L = begins_L
        self._ordinals_N = ordinals_N
        self._codes_ND = codes_ND
        self._halves_ND = codes_ND.view(np.uint16)
        # At once, by whoever applies changes: 15 ms at 90,000 rows that no request is to wait for.
        self._stored = StoredVectors.of_rows(ordinals_N, codes_ND)

    @classmethod
    def empty(cls, coarse: Any) -> ListedBlock:
        begins_L = np.zeros(coarse.ntotal + 1, np.int64)
        return cls(coarse, begins_L, np.empty(0, np.int64), np.empty((0, coarse.d), np.float16))

    @property
    def ordinals(self) -> Ordinals:
        return self._stored.ordinals

    def best(
        self,
        query_D: NDArray[np.float32],
        k: int,
        least: float,
        assignment: Assignment | None,
        allowed: AllowedOrdinals | None,
    ) -> Ranked:
        assert assignment is not None, "a delta with lists belongs to a base with lists"
        rows, scores = scores_of_lists(
            *(self._halves_ND, self._begins_L),
            *(assignment.lists_BP[0], query_D, least),
        )
        return _best((scores, self._ordinals_N[rows]), k, allowed)

    def vectors_of(self, ordinals: Ordinals) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        return self._stored.get(ordinals)

    def dots_of(
        self, ordinals: Ordinals, queries_QD: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        return self._stored.dots(ordinals, queries_QD)

    def changed(
        self, gone: Ordinals, ordinals: Ordinals, vectors_ND: NDArray[np.floating[Any]]
    ) -> ListedBlock:
        # All is copied, 25 MB for 100,000 x 128, for a search may be under way in the old block.
        kept = ~in_sorted(self._ordinals_N, gone)
        lists_N = np.repeat(np.arange(len(self._begins_L) - 1), np.diff(self._begins_L))[kept]
        lists_N = np.concatenate([lists_N, nearest_lists(self._coarse, vectors_ND)])
        order = np.argsort(lists_N, kind="stable")
        counts_L = np.bincount(lists_N, minlength=len(self._begins_L) - 1)
        codes_ND = np.concatenate([self._codes_ND[kept], vectors_ND.astype(np.float16)])
        return ListedBlock(
            self._coarse,
            np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_L)]),
            np.concatenate([self._ordinals_N[kept], ordinals])[order],
            codes_ND[order],
        )


def _best(found: Ranked, k: int, allowed: AllowedOrdinals | None) -> Ranked:
    scores, ordinals = found
    if allowed is not None:
        admitted = allowed.admits(ordinals)
        scores, ordinals = scores[admitted], ordinals[admitted]
    if len(scores) > k:
        best = np.argpartition(scores, len(scores) - k)[len(scores) - k :]
        scores, ordinals = scores[best], ordinals[best]
    return scores, ordinals
