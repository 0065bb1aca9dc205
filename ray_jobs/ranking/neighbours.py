"""Items that the same users act on: the cosine of their columns in the user-item matrix.

    s(i, j) = users who saw both / sqrt(users who saw i * users who saw j)

(Sarwar et al., "Item-based collaborative filtering", WWW 2001; over a user's last items with a
weight that falls by position as in the sequential kNN of Ludewig and Jannach, UMUAI 2018.) The
night keeps the best of each item:

    neighbours.offsets.npy    int64   [S + 1]  item of ordinal o has the entries offsets[o]..
    neighbours.ordinals.npy   int32   [E]      its neighbours, nearest first
    neighbours.weights.npy    float16 [E]      their s

S = ordinals, E = entries, R = recent items of a user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

NEIGHBOURS_EACH = 100
"""Kept of each item: 600 bytes."""

MAX_ITEMS_A_USER = 500
"""Of a user only the newest so many count: pairs grow with their square, and a robot has most."""

ROWS_AT_ONCE = 2_048
"""Items multiplied at a time: bounds the memory of a product that is denser than its factors."""

TABLE_TIMES = 64
"""A table of all ordinals is filled where they are at most so many times the entries."""

DECAYS = (0.8, 0.97)
"""By position in the user's recent items, newest first: what is done now, and what is liked."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Neighbours:
    """The best neighbours of each item. Arrays may be memory-mapped."""

    offsets_S1: NDArray[np.int64]
    ordinals_E: NDArray[np.int32]
    weights_E: NDArray[np.float16]

    @classmethod
    def nobody(cls) -> Neighbours:
        """Of a catalog that nobody has acted on."""
        return cls(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float16))

    def near(self, recent_R: Ints) -> tuple[Ints, Floats]:
        """What is near to a user's recent items, newest first: ordinals (N,) ascending, and for
        each of DECAYS the sum of decay ** position * s, (N, 2)."""
        known = np.flatnonzero((recent_R >= 0) & (recent_R < len(self.offsets_S1) - 1))
        starts, ends = self.offsets_S1[recent_R[known]], self.offsets_S1[recent_R[known] + 1]
        lengths = ends - starts
        if not lengths.sum():
            return np.zeros(0, np.int64), np.zeros((0, len(DECAYS)), np.float32)
        # The entries of all of them in one index: start of each run, and the place in it.
        run = np.repeat(np.arange(len(known)), lengths)
        entries = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        entries += starts[run]
        found, similar = self.ordinals_E[entries], self.weights_E[entries].astype(np.float64)
        span = len(self.offsets_S1) - 1
        is_there_S = np.zeros(span, np.bool_)
        is_there_S[found] = True
        ordinals = np.flatnonzero(is_there_S)
        # Rows by a table where it is small beside the entries, else by search.
        if span <= TABLE_TIMES * len(found):
            row_S = np.zeros(span, np.int64)
            row_S[ordinals] = np.arange(len(ordinals))
            rows = row_S[found]
        else:
            rows = np.searchsorted(ordinals, found)
        sums = [
            np.bincount(rows, similar * base ** known[run].astype(np.float64), len(ordinals))
            for base in DECAYS
        ]
        return ordinals, np.stack(sums, axis=1).astype(np.float32)


def count_neighbours(
    users_P: Ints, ordinals_P: Ints, span: int, each: int = NEIGHBOURS_EACH
) -> Neighbours:
    """Neighbours from pairs (user, item), in order of time; a pair that repeats counts once.

    `span`: one more than the largest ordinal.
    """
    users_P, ordinals_P = _newest_of_each_user(users_P, ordinals_P)
    _, rows_P = np.unique(users_P, return_inverse=True)
    seen = scipy.sparse.csr_matrix(
        (np.ones(len(rows_P), np.float32), (rows_P, ordinals_P)),
        shape=(int(rows_P.max(initial=-1)) + 1, span),
    )
    counts_S = np.asarray(seen.sum(axis=0)).ravel()
    by_item = scipy.sparse.diags_array(1 / np.sqrt(np.maximum(counts_S, 1))).astype(np.float32)
    unit = (seen @ by_item).tocsr()
    columns = unit.T.tocsr()
    lengths, ordinals, weights = [], [], []
    for first in range(0, span, ROWS_AT_ONCE):
        product = (columns[first : first + ROWS_AT_ONCE] @ unit).tocsr()
        for row in range(product.shape[0]):
            start, end = product.indptr[row], product.indptr[row + 1]
            others, similar = product.indices[start:end], product.data[start:end]
            others, similar = others[others != first + row], similar[others != first + row]
            best = np.lexsort((others, -similar))[:each]
            lengths.append(len(best))
            ordinals.append(others[best].astype(np.int32))
            weights.append(similar[best].astype(np.float16))
    return Neighbours(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([np.zeros(0, np.int32), *ordinals]),
        np.concatenate([np.zeros(0, np.float16), *weights]),
    )


def _newest_of_each_user(users_P: Ints, ordinals_P: Ints) -> tuple[Ints, Ints]:
    """Distinct pairs, of each user the MAX_ITEMS_A_USER that came last."""
    newest_first = np.stack([users_P, ordinals_P], axis=1)[::-1]
    _, kept = np.unique(newest_first, axis=0, return_index=True)
    kept = np.sort(kept)
    users, ordinals = newest_first[kept].T
    order = np.argsort(users, kind="stable")
    users, ordinals = users[order], ordinals[order]
    place = np.arange(len(users)) - np.searchsorted(users, users)
    inside = place < MAX_ITEMS_A_USER
    return users[inside], ordinals[inside]
