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

from ray_jobs.compiled import BOOL, FLOATS_2D, INT, INTS, array_of, helper, kernel
from ray_jobs.ranking.lookup import unique_sorted
from ray_jobs.ranking.neighbours import COSINE, LINEAR, Near
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

_TIES = 2**31 - 1
"""What a key says of two that are alike is in its last bits."""

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
        *(newest, published, as_of_ms, near.ordinals, near.sums),
        *shown.arrays,
    )
    return unique_sorted(np.concatenate([nearest, found]))


def may_show(ordinals_M: Ints, shown: Shown) -> Mask:
    """Of each, whether it may be shown: (M,)."""
    mask: Mask = _may_show_each(ordinals_M, *shown.arrays)
    return mask


def most_active(ordinals_P: Ints, sums_PH: Floats, each: int = ACTIVE_EACH) -> Ints:
    """The union of the `each` most active of each horizon, ascending."""
    if len(ordinals_P) <= each:
        return np.unique(ordinals_P)
    best = np.argpartition(-sums_PH, each - 1, axis=0)[:each]
    return np.unique(ordinals_P[best.ravel()])


@helper
def _is_in(ascending: Ints, ordinal: int) -> bool:
    """A search without a branch that depends on what is found: a third of np.searchsorted's."""
    first, count = 0, len(ascending)
    while count > 1:
        half = count // 2
        first += half * (ascending[first + half] <= ordinal)
        count -= half
    return count == 1 and bool(ascending[first] == ordinal)


@helper
def _may_show(
    ordinal: int,
    rows_S: NDArray[np.int32],
    live: Ints,
    gone: Ints,
    added: Ints,
    hidden: Ints,
    eligible: Mask,
    by_live: bool,
    is_filtered: bool,
) -> bool:
    """Arrays one by one here and below: of a tuple numba would count who holds each of them."""
    if ordinal < 0 or (is_filtered and not (ordinal < len(eligible) and eligible[ordinal])):
        return False
    if by_live:
        if len(rows_S):
            is_live = ordinal < len(rows_S) and rows_S[ordinal] >= 0
        else:
            is_live = _is_in(live, ordinal)
        if is_live and len(gone):
            is_live = not _is_in(gone, ordinal)
        if not is_live and not _is_in(added, ordinal):
            return False
    return not _is_in(hidden, ordinal)


@kernel(INTS, *SHOWN_TYPES)
def _may_show_each(
    ordinals_M: Ints,
    rows_S: NDArray[np.int32],
    live: Ints,
    gone: Ints,
    added: Ints,
    hidden: Ints,
    eligible: Mask,
    by_live: bool,
    is_filtered: bool,
) -> Mask:
    mask = np.empty(len(ordinals_M), np.bool_)
    for place in range(len(ordinals_M)):
        mask[place] = _may_show(
            ordinals_M[place], rows_S, live, gone, added, hidden, eligible, by_live, is_filtered
        )
    return mask


@helper
def _key(value: np.float32, tie: int) -> int:
    """A number that is the smaller the larger `value` is; of equal ones that of the smaller `tie`,
    which is below 2**31."""
    bits = np.int64(np.float32(value + np.float32(0)).view(np.int32))  # + 0: there is one zero
    if bits < 0:
        bits = -(bits & _TIES) - 1
    return int(((_TIES - bits) << 31) | tie)


@helper
def _in_order(keys: Ints, wanted: int) -> Ints:
    """The smallest keys, ascending: `wanted` of them or some more, or all. Counted by their first
    bits, so that only those which may be wanted are sorted."""
    if len(keys) <= 2 * wanted:
        return np.sort(keys)
    counts = np.zeros(1 << 12, np.int64)
    for key in keys:
        counts[key >> 51] += 1
    end, total = 0, 0
    while total < wanted:
        total += counts[end]
        end += 1
    found, count = np.empty(total, np.int64), 0
    for key in keys:
        if key >> 51 < end:
            found[count] = key
            count += 1
    found.sort()
    return found


@kernel(FLOATS_2D, INT)
def _front(sums_PH: Floats, most: int) -> Ints:
    """Rows (H, B) of the `most` best of each horizon, or all, the best first."""
    count = min(most, len(sums_PH))
    rows_HB = np.empty((sums_PH.shape[1], count), np.int64)
    keys = np.empty(len(sums_PH), np.int64)
    for horizon in range(len(rows_HB)):
        for row in range(len(keys)):
            keys[row] = _key(sums_PH[row, horizon], row)
        ordered = _in_order(keys, most)
        for place in range(count):
            rows_HB[horizon, place] = ordered[place] & _TIES
    return rows_HB


_UNKNOWN, _SHOWN, _HIDDEN, _TAKEN = 0, 1, 2, 3
"""Of an item of the pool, for this user: so that it is looked up once for all horizons."""


@helper
def _may_show_row(
    row: int,
    states_P: NDArray[np.int8],
    active_P: Ints,
    rows_S: NDArray[np.int32],
    live: Ints,
    gone: Ints,
    added: Ints,
    hidden: Ints,
    eligible: Mask,
    by_live: bool,
    is_filtered: bool,
) -> bool:
    if states_P[row] == _UNKNOWN:
        may = _may_show(
            active_P[row], rows_S, live, gone, added, hidden, eligible, by_live, is_filtered
        )
        states_P[row] = _SHOWN if may else _HIDDEN
    return bool(states_P[row] != _HIDDEN)


@helper
def _most_active(
    horizon: int,
    active_P: Ints,
    sums_PH: Floats,
    front_HB: Ints,
    is_all: bool,
    states_P: NDArray[np.int8],
    rows_S: NDArray[np.int32],
    live: Ints,
    gone: Ints,
    added: Ints,
    hidden: Ints,
    eligible: Mask,
    by_live: bool,
    is_filtered: bool,
) -> None:
    """Take the best of one horizon: of its front, and where that has too few of the whole pool."""
    count = 0
    for row in front_HB[horizon]:
        if count == ACTIVE_EACH:
            return
        if _may_show_row(
            row,
            states_P,
            active_P,
            rows_S,
            live,
            gone,
            added,
            hidden,
            eligible,
            by_live,
            is_filtered,
        ):
            states_P[row] = _TAKEN
            count += 1
    if count == ACTIVE_EACH or is_all:
        return
    keys, count = np.empty(len(active_P), np.int64), 0
    for row in range(len(active_P)):
        if _may_show_row(
            row,
            states_P,
            active_P,
            rows_S,
            live,
            gone,
            added,
            hidden,
            eligible,
            by_live,
            is_filtered,
        ):
            keys[count] = _key(sums_PH[row, horizon], row)
            count += 1
    for key in _in_order(keys[:count], ACTIVE_EACH)[:ACTIVE_EACH]:
        states_P[key & _TIES] = _TAKEN


@helper
def _nearest_neighbours(
    near_N: Ints,
    values_N: Floats,
    found: Ints,
    count: int,
    rows_S: NDArray[np.int32],
    live: Ints,
    gone: Ints,
    added: Ints,
    hidden: Ints,
    eligible: Mask,
    by_live: bool,
    is_filtered: bool,
) -> int:
    """Add to `found`, of which there are `count`, those that are best by one measure; how many
    there are then."""
    keys, until = np.empty(len(near_N), np.int64), count + NEIGHBOURS
    for row in range(len(near_N)):
        keys[row] = _key(values_N[row], near_N[row])
    ordered, place = _in_order(keys, NEIGHBOURS + SPARE), 0
    while count < until and place < len(keys):
        if place == len(ordered):  # many may not be shown
            ordered = np.sort(keys)
        ordinal = ordered[place] & _TIES
        place += 1
        if _may_show(ordinal, rows_S, live, gone, added, hidden, eligible, by_live, is_filtered):
            found[count] = ordinal
            count += 1
    return count


@kernel(
    *(INTS, FLOATS_2D, array_of(INT, 2), BOOL, INTS, INTS, INT, INTS, FLOATS_2D),
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
    rows_S: NDArray[np.int32],
    live: Ints,
    gone: Ints,
    added: Ints,
    hidden: Ints,
    eligible: Mask,
    by_live: bool,
    is_filtered: bool,
) -> Ints:
    """Of all sources, in no order; what several sources have may repeat."""
    most = len(front_HB) * ACTIVE_EACH + NEWEST + 2 * NEIGHBOURS
    found, count = np.empty(most, np.int64), 0
    states_P = np.zeros(len(active_P), np.int8)
    for horizon in range(len(front_HB)):
        _most_active(
            *(horizon, active_P, sums_PH, front_HB, is_all, states_P),
            *(rows_S, live, gone, added, hidden, eligible, by_live, is_filtered),
        )
    for row in range(len(active_P)):
        if states_P[row] == _TAKEN:
            found[count] = active_P[row]
            count += 1
    until = count + NEWEST
    for place in range(len(newest)):
        if count == until:
            break
        if published[place] <= as_of_ms and _may_show(
            *(newest[place], rows_S, live, gone, added, hidden, eligible, by_live, is_filtered),
        ):
            found[count] = newest[place]
            count += 1
    for column in (COSINE, LINEAR):
        count = _nearest_neighbours(
            *(near_N, near_N3[:, column], found, count),
            *(rows_S, live, gone, added, hidden, eligible, by_live, is_filtered),
        )
    return found[:count]
