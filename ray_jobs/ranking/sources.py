"""Where candidates come from beside the nearest to the user vector: what is acted on, what is new,
what others took beside the user's last items.

A new item is near to nobody and a fad is near to few, so the nearest alone would never show them.
Each source gives a bounded number; `fusion` then scores them all alike.

Shapes: P pool, H horizons, N near, D sums (`neighbours.SUMS`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_jobs.ranking.neighbours import COSINE, LATELY, LINEAR, WHOLE

ACTIVE_EACH = 100
"""Most active items of each horizon."""

NEWEST = 100
"""Items published last."""

NEIGHBOURS = 150
"""Items nearest to what the user has taken, by each sum of `neighbours`."""

RECENT_ITEMS = 5
"""Of a user's recent items, those whose mean vector candidates are compared with."""

POOL = 1_000
"""Kept of each horizon, and of the newest, to choose from: filters and seen items take some."""

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


def candidates_beside(
    pools: Pools,
    near_N: Ints,
    near_ND: Floats,
    as_of_ms: int,
    allowed: Callable[[Ints], NDArray[np.bool_]],
) -> Ints:
    """Candidates of all sources but the user vector, ascending. `near`: see `Neighbours.near`;
    `allowed`: which of these ordinals this user may be shown."""
    active, new, near = allowed(pools.active), allowed(pools.newest), allowed(near_N)
    found = (
        most_active(pools.active[active], pools.sums[active]),
        newest(pools.newest[new], pools.published[new], as_of_ms),
        nearest_neighbours(near_N[near], near_ND[near]),
    )
    return np.unique(np.concatenate(found))


def most_active(ordinals_P: Ints, sums_PH: Floats, each: int = ACTIVE_EACH) -> Ints:
    """The union of the `each` most active of each horizon, ascending."""
    if len(ordinals_P) <= each:
        return np.unique(ordinals_P)
    best = np.argpartition(-sums_PH, each - 1, axis=0)[:each]
    return np.unique(ordinals_P[best.ravel()])


def newest(ordinals_P: Ints, published_P: Ints, as_of_ms: int, count: int = NEWEST) -> Ints:
    """The `count` that were published last, not after `as_of_ms`; ties by ordinal. Items of which
    nobody says when (-1) are none of them."""
    there = (published_P >= 0) & (published_P <= as_of_ms)
    ordinals, published = ordinals_P[there], published_P[there]
    return ordinals[np.lexsort((ordinals, -published))[:count]]


def nearest_neighbours(ordinals_P: Ints, sums_PD: Floats, count: int = NEIGHBOURS) -> Ints:
    """The union of the `count` best by each sum (of cosines by the slower decay), ascending."""
    if len(ordinals_P) <= count:
        return ordinals_P
    measures = sums_PD[:, [COSINE, LINEAR, WHOLE, LATELY]]
    best = np.argpartition(-measures, count - 1, axis=0)[:count]
    return np.unique(ordinals_P[best.ravel()])


def at_rows(ordinals_N: Ints, sums_ND: Floats, wanted_M: Ints) -> Floats:
    """Rows of `sums_ND` of the `wanted` ordinals (M, D); `ordinals_N` ascending, others 0."""
    found = np.zeros((len(wanted_M), sums_ND.shape[1]), np.float32)
    if len(ordinals_N):
        rows = np.minimum(np.searchsorted(ordinals_N, wanted_M), len(ordinals_N) - 1)
        known = ordinals_N[rows] == wanted_M
        found[known] = sums_ND[rows[known]]
    return found
