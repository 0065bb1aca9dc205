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
from typing import NamedTuple

import numpy as np
import scipy.sparse
from numba import types
from numpy.typing import NDArray

from ray_jobs.compiled import FLOAT, FLOATS, FLOATS_2D, INTS, INTS32, array_of, helper, kernel
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

    def __post_init__(self) -> None:
        """Raises ValueError: the arrays do not belong together."""
        offsets, entries = self.offsets_S1, len(self.ordinals_E)
        if not len(offsets) or self.weights_E2.shape != (entries, 2):
            raise ValueError("lengths that do not match")
        if offsets[0] != 0 or offsets[-1] != entries or (offsets[1:] < offsets[:-1]).any():
            raise ValueError("offsets that do not ascend from 0 to the entries")
        if entries and self.ordinals_E.min() < 0:
            raise ValueError("a neighbour of a negative ordinal")

    def near(self, recent_R: Ints) -> Near:
        """What is near to a user's recent items, newest first."""
        decays_R2 = _DECAYS[: len(recent_R)]
        if len(decays_R2) < len(recent_R):
            decays_R2 = _decays(len(recent_R))
        bits_E2 = self.weights_E2.view(np.uint16)
        return Near(*_near(recent_R, decays_R2, self.offsets_S1, self.ordinals_E, bits_E2, _HALVES))


class Near(NamedTuple):
    """The `ordinals` (N,) beside a user's recent items, in no order, and for each of SUMS the
    sum of decay ** position * weight, (N, 3). `slots`: a hash table of their rows."""

    ordinals: Ints
    sums: Floats
    slots: NDArray[np.int32]

    @classmethod
    def nobody(cls) -> Near:
        """Beside nothing."""
        nothing = np.zeros((0, len(SUMS)), np.float32)
        return cls(np.zeros(0, np.int64), nothing, np.full(1, -1, np.int32))

    def at(self, found_M: Ints) -> Floats:
        """The sums of these items, 0 of one that is not near: (M, 3)."""
        sums: Floats = _near_at(found_M, self.ordinals, self.sums, self.slots)
        return sums


def _decays(count: int) -> NDArray[np.float64]:
    """(count, 2): by position."""
    decays: NDArray[np.float64] = np.array(DECAYS) ** np.arange(count, dtype=np.float64)[:, None]
    return decays


_DECAYS = _decays(64)
_HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""The number of each two bytes: a kernel has no half precision."""


@helper
def slot_of(ordinal: int, ordinals_N: Ints, slots: NDArray[np.int32]) -> int:
    """Where `ordinal` is in the table, or the empty slot where it would be. A table has a power of
    two slots, and one that is empty."""
    mask = len(slots) - 1
    slot = ((ordinal * 0x9E3779B1) >> 8) & mask
    while slots[slot] >= 0 and ordinals_N[slots[slot]] != ordinal:
        slot = (slot + 1) & mask
    return slot


@kernel(INTS, array_of(FLOAT, 2), INTS, INTS32, array_of(types.uint16, 2), FLOATS)
def _near(
    recent_R: Ints,
    decays_R2: NDArray[np.float64],
    offsets_S1: Ints,
    ordinals_E: NDArray[np.int32],
    bits_E2: NDArray[np.uint16],
    halves: Floats,
) -> tuple[Ints, Floats, NDArray[np.int32]]:
    span, most = len(offsets_S1) - 1, 0
    for ordinal in recent_R:
        if 0 <= ordinal < span:
            most += offsets_S1[ordinal + 1] - offsets_S1[ordinal]
    size = 16
    while size < 2 * most:
        size *= 2
    slots = np.full(size, -1, np.int32)
    found, sums = np.empty(most, np.int64), np.empty((most, 3), np.float64)
    count = 0
    for position in range(len(recent_R)):
        ordinal = recent_R[position]
        if not 0 <= ordinal < span:
            continue
        now, liked = decays_R2[position, 0], decays_R2[position, 1]
        for entry in range(offsets_S1[ordinal], offsets_S1[ordinal + 1]):
            neighbour = np.int64(ordinals_E[entry])
            slot = slot_of(neighbour, found, slots)
            row = slots[slot]
            if row < 0:
                row = count
                slots[slot], found[row] = row, neighbour
                sums[row, 0] = sums[row, 1] = sums[row, 2] = 0.0
                count += 1
            cosine = np.float64(halves[bits_E2[entry, 0]])
            sums[row, 0] += cosine * now
            sums[row, 1] += cosine * liked
            sums[row, 2] += np.float64(halves[bits_E2[entry, 1]]) * liked
    return found[:count], sums[:count].astype(np.float32), slots


@kernel(INTS, INTS, FLOATS_2D, INTS32)
def _near_at(found_M: Ints, ordinals_N: Ints, sums_N3: Floats, slots: NDArray[np.int32]) -> Floats:
    sums_M3 = np.zeros((len(found_M), 3), np.float32)
    for place in range(len(found_M)):
        row = slots[slot_of(found_M[place], ordinals_N, slots)]
        if row >= 0:
            for column in range(3):
                sums_M3[place, column] = sums_N3[row, column]
    return sums_M3


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
