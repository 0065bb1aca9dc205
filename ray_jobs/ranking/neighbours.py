"""Items that the same users act on, by two measures of the user's last items.

    cosine(i, j) = sum over users of both of w(u) / sqrt(sum over those of i * sum over those of j)
    w(u) = 1 / sqrt(items of u)
    linear(i, j): what i says of j beside the user's other items (`linear`)

(Sarwar et al., "Item-based collaborative filtering", WWW 2001; who takes everything says less of
any two: Breese et al. 1998. Over a user's last items with a weight that falls by position as in the
sequential kNN of Ludewig and Jannach, UMUAI 2018.) The night keeps the best of each item:

    neighbours.offsets.npy    int64   [S + 1]  item of ordinal o has the entries offsets[o]..
    neighbours.ordinals.npy   int32   [E]      its neighbours, ascending
    neighbours.weights.npy    float16 [E, 2]   cosine and linear weight; 0 where not among the best

What the same users' whole histories say is beside it (`whole_history`). S = ordinals, E = entries,
R = recent items of a user, N found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from ray_jobs.ranking.linear import linear_weights
from ray_jobs.ranking.whole_history import WholeHistory, learn_whole_history

NEIGHBOURS_EACH = 100
"""Kept of each item and measure: 1.6 kB at most."""

MAX_ITEMS_A_USER = 500
"""Of a user only the newest so many count: pairs grow with their square, and a robot has most."""

ROWS_AT_ONCE = 2_048
"""Items multiplied at a time: bounds the memory of a product that is denser than its factors."""

DECAYS = (0.8, 0.97)
"""By position in the user's recent items, newest first: what is done now, and what is liked."""

SUMS = (*(f"cosine_{base:g}" for base in DECAYS), "linear")
"""What is summed of each neighbour: cosines by both decays, linear weights by the slower one."""
COSINE, LINEAR = len(DECAYS) - 1, len(DECAYS)
"""Columns of the two measures, by the slower decay."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Neighbours:
    """The best neighbours of each item. Arrays may be memory-mapped."""

    offsets_S1: NDArray[np.int64]
    ordinals_E: NDArray[np.int32]
    weights_E2: NDArray[np.float16]
    whole: WholeHistory

    @classmethod
    def nobody(cls) -> Neighbours:
        """Of a catalog that nobody has acted on."""
        weights = np.zeros((0, 2), np.float16)
        return cls(np.zeros(1, np.int64), np.zeros(0, np.int32), weights, WholeHistory.nobody())

    def near(self, recent_R: Ints) -> tuple[Ints, Floats]:
        """What is near to a user's recent items, newest first: ordinals (N,) ascending, and for
        each of SUMS the sum of decay ** position * weight, (N, 3)."""
        known = np.flatnonzero((recent_R >= 0) & (recent_R < len(self.offsets_S1) - 1))
        starts, ends = self.offsets_S1[recent_R[known]], self.offsets_S1[recent_R[known] + 1]
        lengths = ends - starts
        if not lengths.sum():
            return np.zeros(0, np.int64), np.zeros((0, len(SUMS)), np.float32)
        # The entries of all of them in one index: start of each run, and the place in it.
        run = np.repeat(np.arange(len(known)), lengths)
        entries = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        entries += starts[run]
        found, weights = self.ordinals_E[entries], self.weights_E2[entries].astype(np.float64)
        # Runs that ascend already: a stable sort only merges them, whatever the span is.
        order = np.argsort(found, kind="stable")
        is_new = np.diff(found[order], prepend=-1) > 0
        rows = np.empty(len(found), np.int64)
        rows[order] = np.cumsum(is_new) - 1
        ordinals = found[order[is_new]].astype(np.int64)
        decays = [(base ** known.astype(np.float64))[run] for base in DECAYS]
        shares = [weights[:, 0] * decay for decay in decays]
        shares.append(weights[:, 1] * decays[-1])
        sums = [np.bincount(rows, share, len(ordinals)) for share in shares]
        return ordinals, np.stack(sums, axis=1).astype(np.float32)


def count_neighbours(
    users_P: Ints, ordinals_P: Ints, span: int, each: int = NEIGHBOURS_EACH
) -> Neighbours:
    """Neighbours from pairs (user, item), in order of time; a pair that repeats counts once.

    `span`: one more than the largest ordinal.
    """
    whole = learn_whole_history(users_P, ordinals_P, span)
    users_P, ordinals_P = _newest_of_each_user(users_P, ordinals_P)
    _, rows_P = np.unique(users_P, return_inverse=True)
    seen_US = scipy.sparse.csr_matrix(
        (np.ones(len(rows_P), np.float32), (rows_P, ordinals_P)),
        shape=(int(rows_P.max(initial=-1)) + 1, span),
    )
    linear = linear_weights(seen_US, each)
    counts = [np.zeros(1, np.int64)]
    ordinals, weights = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.float16)]
    for first, cosine in _cosines(seen_US, each):
        of_block = _joined(cosine, linear[first : first + cosine.shape[0]])
        counts.append(of_block[0])
        ordinals.append(of_block[1])
        weights.append(of_block[2])
    return Neighbours(
        *(np.cumsum(np.concatenate(counts)), np.concatenate(ordinals), np.concatenate(weights)),
        whole,
    )


def _cosines(
    seen_US: scipy.sparse.csr_matrix, each: int
) -> Iterator[tuple[int, scipy.sparse.csr_matrix]]:
    """(S, S) in blocks of ROWS_AT_ONCE: the first row of each, and of each row the `each` largest
    cosines."""
    span = seen_US.shape[1]
    taken_U = np.maximum(np.asarray(seen_US.sum(axis=1)).ravel(), 1)
    by_user = scipy.sparse.diags_array(taken_U**-0.25)  # its square is w(u)
    weighted = (by_user @ seen_US).tocsr()
    norms_S = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=0)).ravel())
    by_item = scipy.sparse.diags_array(1 / np.where(norms_S > 0, norms_S, 1)).astype(np.float32)
    unit = (weighted @ by_item).tocsr().astype(np.float32)
    columns = unit.T.tocsr()
    for first in range(0, span, ROWS_AT_ONCE):
        product = (columns[first : first + ROWS_AT_ONCE] @ unit).tocsr()
        count = product.shape[0]
        rows, ordinals, similar = [], [], []
        for row in range(count):
            start, end = product.indptr[row], product.indptr[row + 1]
            others, cosines = product.indices[start:end], product.data[start:end]
            others, cosines = others[others != first + row], cosines[others != first + row]
            best = np.lexsort((others, -cosines))[:each]
            rows.append(np.full(len(best), row))
            ordinals.append(others[best])
            similar.append(cosines[best])
        found = np.concatenate(similar), (np.concatenate(rows), np.concatenate(ordinals))
        yield first, scipy.sparse.csr_matrix(found, shape=(count, span))


def _joined(
    *tables: scipy.sparse.csr_matrix,
) -> tuple[Ints, NDArray[np.int32], NDArray[np.float16]]:
    """The entries of all tables of the same rows, row by row, ascending: how many each row has,
    their columns and their weights, one of each table."""
    count, span = tables[0].shape
    numbers = [_entry_numbers(table) for table in tables]
    entries_E = np.unique(np.concatenate(numbers))
    weights_E2 = np.zeros((len(entries_E), len(tables)), np.float16)
    for column, (table, number) in enumerate(zip(tables, numbers, strict=True)):
        weights_E2[np.searchsorted(entries_E, number), column] = table.data
    counts = np.bincount(entries_E // span, minlength=count).astype(np.int64)
    return counts, (entries_E % span).astype(np.int32), weights_E2


def _entry_numbers(table: scipy.sparse.csr_matrix) -> Ints:
    """row * span + column of each entry, in the order of its data."""
    rows = np.repeat(np.arange(table.shape[0], dtype=np.int64), np.diff(table.indptr))
    numbers: Ints = rows * table.shape[1] + table.indices
    return numbers


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
