"""Where candidates come from beside the nearest to the user vector: what is acted on, what is new,
what others took beside the user's last items.

A new item is near to nobody and a fad is near to few, so the nearest alone would never show them.
Each source gives a bounded number; `fusion` then scores them all alike.

Shapes: P pool, H horizons, F front, B best of a horizon, N near, D sums
(`neighbours.SUMS`), M found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import BOOL, FLOATS_2D, INT, INTS, INTS32, array_of, kernel
from ray_jobs.order import TIES, key_of, row_in, smallest
from ray_jobs.ranking.lookup import unique_sorted
from ray_jobs.ranking.neighbours import COSINE, LINEAR, Near, slot_of
from ray_jobs.ranking.shown import SHOWN_TYPES, Shown

ACTIVE_EACH = 100
"""Most active items of each horizon."""

NEWEST = 100
"""Items published last."""

NEIGHBOURS = 150
"""Items nearest to the user's recent ones, by each of their two measures in `neighbours`. What the
whole history says scores candidates and brings none."""

RECENT_ITEMS = 5
"""Of a user's recent items, those whose mean vector candidates are compared with."""

POOL = 1_000
"""Kept of each horizon, and of the newest, to choose from: filters and seen items take some."""

SPARE = 60
"""So many more of the best of a source are put in order beforehand: few users may not be shown more
of them than that. Where one may not, the whole pool is looked through."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Pools:
    """What may be shown to anybody at one moment: the most `active` items (P,), ascending, with
    their `sums` (P, H), and the `newest` with the time at which each was `published`."""

    active: Ints
    sums: Floats
    newest: Ints
    published: Ints

    @cached_property
    def front(self) -> Front:
        """The front of the active ones: made once, for all users of the moment."""
        return Front.of(self.sums)

    @cached_property
    def newest_first(self) -> tuple[Ints, Ints]:
        """Newest, the last published first (ties by ordinal), and when: without those of which
        nobody says when."""
        told = self.published >= 0
        ordinals, published = self.newest[told], self.published[told]
        order = np.lexsort((ordinals, -published))
        return ordinals[order], published[order]


@dataclass(frozen=True)
class Front:
    """The best of each horizon, in their order, so that a user's are found without looking through
    the pool: `rows_HB` among the pool's. `is_all`: no horizon has more."""

    rows_HB: Ints
    is_all: bool

    @classmethod
    def of(cls, sums_PH: Floats) -> Front:
        """The ACTIVE_EACH + SPARE best of each horizon, ties by ordinal."""
        most = ACTIVE_EACH + SPARE
        return cls(_front(sums_PH, most), len(sums_PH) <= most)


def candidates(pools: Pools, near: Near, nearest: Ints, as_of_ms: int, shown: Shown) -> Ints:
    """Candidates of all sources (M,), ascending. `nearest`: those of the user vector, which may be
    shown; of the other sources each gives its best that may, ties by ordinal."""
    front = pools.front
    newest, published = pools.newest_first
    found = _beside(
        *(pools.active, pools.sums, front.rows_HB, front.is_all),
        *(newest, published, as_of_ms, near.ordinals, near.sums, near.slots),
        *shown.arrays,
    )
    return unique_sorted(np.concatenate([nearest, found]))


def most_active(ordinals_P: Ints, sums_PH: Floats, each: int = ACTIVE_EACH) -> Ints:
    """The union of the `each` most active of each horizon, ascending."""
    if len(ordinals_P) <= each:
        return np.unique(ordinals_P)
    best = np.argpartition(-sums_PH, each - 1, axis=0)[:each]
    return np.unique(ordinals_P[best.ravel()])


@kernel(FLOATS_2D, INT)
def _front(sums_PH: Floats, most: int) -> Ints:
    """Rows (H, B) of the `most` best of each horizon, or all, the best first."""
    count = min(most, len(sums_PH))
    rows_HB = np.empty((sums_PH.shape[1], count), np.int64)
    keys = np.empty(len(sums_PH), np.int64)
    for horizon in range(len(rows_HB)):
        for row in range(len(keys)):
            keys[row] = key_of(sums_PH[row, horizon], row)
        rows_HB[horizon] = np.sort(smallest(keys, most)) & TIES
    return rows_HB


_SHOWN, _HIDDEN, _TAKEN = 0, 1, 2
"""Of an item of the pool, for this user."""


@kernel(
    *(INTS, FLOATS_2D, array_of(INT, 2), BOOL, INTS, INTS, INT, INTS, FLOATS_2D, INTS32),
    *SHOWN_TYPES,
)
def _beside(
    active_P: Ints,
    sums_PH: Floats,
    front_HB: Ints,
    is_all: bool,
    newest: Ints,
    published: Ints,
    as_of_ms: int,
    near_N: Ints,
    near_N3: Floats,
    slots: NDArray[np.int32],
    live: Mask,
    hidden: Ints,
    eligible: Mask,
    by_live: bool,
    is_filtered: bool,
) -> Ints:
    """Of all sources, in no order; what several sources have may repeat.

    One function: a helper that is handed an array counts who holds it, and to ask one whether an
    item may be shown took 150 ns, five times what the answer takes.
    """
    most = len(front_HB) * ACTIVE_EACH + NEWEST + 2 * NEIGHBOURS
    found, count = np.empty(most, np.int64), 0
    states_P = np.zeros(len(active_P), np.int8)
    for row in range(len(active_P)):
        ordinal = active_P[row]
        if (by_live and not (ordinal < len(live) and live[ordinal])) or (
            is_filtered and not (ordinal < len(eligible) and eligible[ordinal])
        ):
            states_P[row] = _HIDDEN
    for ordinal in hidden:
        row = row_in(active_P, ordinal)
        if row >= 0:
            states_P[row] = _HIDDEN
    for horizon in range(len(front_HB)):
        taken = 0
        for row in front_HB[horizon]:
            if states_P[row] != _HIDDEN:
                states_P[row] = _TAKEN
                taken += 1
                if taken == ACTIVE_EACH:
                    break
        if taken < ACTIVE_EACH and not is_all:  # of the whole pool
            keys, taken = np.empty(len(active_P), np.int64), 0
            for row in range(len(active_P)):
                if states_P[row] != _HIDDEN:
                    keys[taken] = key_of(sums_PH[row, horizon], row)
                    taken += 1
            for key in smallest(keys[:taken], ACTIVE_EACH):
                states_P[key & TIES] = _TAKEN
    for row in range(len(active_P)):
        if states_P[row] == _TAKEN:
            found[count] = active_P[row]
            count += 1
    until = count + NEWEST
    for place in range(len(newest)):
        if count == until:
            break
        ordinal = newest[place]
        if (
            published[place] <= as_of_ms
            and (not by_live or (ordinal < len(live) and live[ordinal]))
            and (not is_filtered or (ordinal < len(eligible) and eligible[ordinal]))
            and row_in(hidden, ordinal) < 0
        ):
            found[count] = ordinal
            count += 1
    is_hidden_N = np.zeros(len(near_N), np.bool_)
    for ordinal in hidden:
        row = slots[slot_of(ordinal, near_N, slots)]
        if row >= 0:
            is_hidden_N[row] = True
    rows_N, shown = np.empty(len(near_N), np.int64), 0
    for row in range(len(near_N)):
        ordinal = near_N[row]
        if (
            not is_hidden_N[row]
            and (not by_live or (ordinal < len(live) and live[ordinal]))
            and (not is_filtered or (ordinal < len(eligible) and eligible[ordinal]))
        ):
            rows_N[shown] = row
            shown += 1
    keys = np.empty(shown, np.int64)
    for column in (COSINE, LINEAR):
        for place in range(shown):
            row = rows_N[place]
            keys[place] = key_of(near_N3[row, column], near_N[row])
        for key in smallest(keys, NEIGHBOURS):
            found[count] = key & TIES
            count += 1
    return found[:count]
