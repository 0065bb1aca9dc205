"""Where candidates come from beside the nearest to the user vector: what is acted on, what is new,
what others took beside the user's last items.

A new item is near to nobody and a fad is near to few, so the nearest alone would never show them.
Each source gives a bounded number; `fusion` then scores them all alike.

Shapes: P pool, H horizons, N near, D sums (`neighbours.SUMS`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ray_jobs.ranking.lookup import unique_sorted
from ray_jobs.ranking.neighbours import COSINE, LINEAR

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
"""So many more of the best of a pool are looked at first: few users may not be shown more of them
than that. Where one may not, the whole pool is looked through."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pools:
    """What may be shown to anybody at one moment: the most `active` items (P,) with their `sums`
    (P, H), and the `newest` with the time at which each was `published`."""

    active: Ints
    sums: Floats
    newest: Ints
    published: Ints

    @cached_property
    def front(self) -> Front:
        """The front of the active ones: made once, for all users of the moment."""
        return Front.of(self.active, self.sums)

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
    """The best of each horizon, so that a user's are found without looking through the pool.

    `ordinals` (F,) ascending; `places_HB` the row among them of the first, second, ... of each
    horizon. `is_all`: no horizon has more.
    """

    ordinals: Ints
    places_HB: Ints
    is_all: bool

    @classmethod
    def of(cls, ordinals_P: Ints, sums_PH: Floats) -> Front:
        """The ACTIVE_EACH + SPARE best of each horizon, ties by ordinal."""
        most = ACTIVE_EACH + SPARE
        rows_BH = np.broadcast_to(np.arange(len(ordinals_P))[:, None], sums_PH.shape)
        if len(ordinals_P) > most:
            rows_BH = np.argpartition(-sums_PH, most - 1, axis=0)[:most]
        sums_BH = np.take_along_axis(sums_PH, rows_BH, axis=0)
        order_BH = np.lexsort((ordinals_P[rows_BH], -sums_BH), axis=0)
        best_BH = np.take_along_axis(rows_BH, order_BH, axis=0)
        rows_F, places = np.unique(best_BH.T, return_inverse=True)
        places_HB = places.reshape(best_BH.T.shape).astype(np.int64)
        return cls(ordinals_P[rows_F], places_HB, len(ordinals_P) <= most)

    def most_active(self, allowed_F: NDArray[np.bool_]) -> Ints | None:
        """The union of the ACTIVE_EACH best of each horizon among those allowed, ascending; None
        where the front has too few of a horizon."""
        allowed_HB = allowed_F[self.places_HB]
        counts_HB = allowed_HB.cumsum(axis=1, dtype=np.int16)
        if not self.is_all and counts_HB[:, -1].min(initial=ACTIVE_EACH) < ACTIVE_EACH:
            return None
        taken_HB = allowed_HB & (counts_HB <= ACTIVE_EACH)
        is_taken_F = np.zeros(len(self.ordinals), np.bool_)
        is_taken_F[self.places_HB[taken_HB]] = True
        return self.ordinals[is_taken_F]


Allowed = Callable[[Ints], NDArray[np.bool_]]


def candidates_beside(
    pools: Pools, near_N: Ints, near_ND: Floats, as_of_ms: int, allowed: Allowed
) -> Ints:
    """Candidates of all sources but the user vector, ascending. `near`: see `Neighbours.near`;
    `allowed`: which of these ordinals this user may be shown."""
    found = (
        _most_active(pools, allowed),
        _newest(pools, as_of_ms, allowed),
        _nearest_neighbours(near_N, near_ND, allowed),
    )
    return unique_sorted(np.concatenate(found))


def _most_active(pools: Pools, allowed: Allowed) -> Ints:
    front = pools.front
    found = front.most_active(allowed(front.ordinals))
    if found is not None:
        return found
    active = allowed(pools.active)
    return most_active(pools.active[active], pools.sums[active])


def most_active(ordinals_P: Ints, sums_PH: Floats, each: int = ACTIVE_EACH) -> Ints:
    """The union of the `each` most active of each horizon, ascending."""
    if len(ordinals_P) <= each:
        return np.unique(ordinals_P)
    best = np.argpartition(-sums_PH, each - 1, axis=0)[:each]
    return np.unique(ordinals_P[best.ravel()])


def _newest(pools: Pools, as_of_ms: int, allowed: Allowed) -> Ints:
    """The NEWEST that were published last, not after `as_of_ms`; ties by ordinal. Items of which
    nobody says when (-1) are none of them."""
    ordinals, published = pools.newest_first
    first = int(np.searchsorted(-published, -as_of_ms))
    ordinals = ordinals[first:]
    front = ordinals[: NEWEST + SPARE]
    found = front[allowed(front)]
    if len(found) < NEWEST and len(front) < len(ordinals):
        found = ordinals[allowed(ordinals)]
    return found[:NEWEST]


def _nearest_neighbours(near_N: Ints, near_ND: Floats, allowed: Allowed) -> Ints:
    """The union of the NEIGHBOURS best of each measure that are allowed, ascending: of the front of
    each, where that has enough."""
    wanted = NEIGHBOURS + SPARE
    if len(near_N) > wanted:
        measures = near_ND[:, [COSINE, LINEAR]]
        best = np.argpartition(-measures, wanted - 1, axis=0)[:wanted]
        front = allowed(near_N[best.ravel()]).reshape(best.shape)
        if front.sum(axis=0).min() >= NEIGHBOURS:
            kept = []
            for column in range(best.shape[1]):
                rows = best[front[:, column], column]
                order = np.argpartition(-measures[rows, column], NEIGHBOURS - 1)[:NEIGHBOURS]
                kept.append(near_N[rows[order]])
            return np.concatenate(kept)
    near = allowed(near_N)
    return nearest_neighbours(near_N[near], near_ND[near])


def nearest_neighbours(ordinals_P: Ints, sums_PD: Floats, count: int = NEIGHBOURS) -> Ints:
    """The union of the `count` best of each measure, by the slower decay, ascending."""
    if len(ordinals_P) <= count:
        return ordinals_P
    measures = sums_PD[:, [COSINE, LINEAR]]
    best = np.argpartition(-measures, count - 1, axis=0)[:count]
    return np.unique(ordinals_P[best.ravel()])
