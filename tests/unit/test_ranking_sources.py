"""A user's candidates from the front of a pool are those of the whole pool."""

import numpy as np
import pytest

from ray_jobs.ranking.neighbours import COSINE, LINEAR, SUMS, Near
from ray_jobs.ranking.shown import Shown
from ray_jobs.ranking.sources import (
    ACTIVE_EACH,
    NEIGHBOURS,
    NEWEST,
    POOL,
    Pools,
    candidates,
    most_active,
)

SPAN, AS_OF_MS = 3_000, 10_000
HORIZONS = 3
NOTHING = np.zeros(0, np.int64)


def made_pools(rng: np.random.Generator, size: int) -> Pools:
    active = np.sort(rng.choice(SPAN, size, replace=False)).astype(np.int64)
    newest = np.sort(rng.choice(SPAN, size, replace=False)).astype(np.int64)
    published = rng.integers(-1, AS_OF_MS + 300, size=size)
    sums = rng.random((size, HORIZONS)).astype(np.float32)
    return Pools(active, sums, newest, published)


def brute(pools: Pools, near: np.ndarray, sums: np.ndarray, may: np.ndarray) -> set[int]:
    found: set[int] = set()
    for column in pools.sums.T:
        ranked = sorted(
            (-value, o) for value, o in zip(column, pools.active, strict=True) if may[o]
        )
        found.update(o for _, o in ranked[:ACTIVE_EACH])
    told = zip(pools.published, pools.newest, strict=True)
    ranked_new = sorted((-at, o) for at, o in told if 0 <= at <= AS_OF_MS and may[o])
    found.update(o for _, o in ranked_new[:NEWEST])
    for column in (sums[:, COSINE], sums[:, LINEAR]):
        ranked = sorted((-value, o) for value, o in zip(column, near, strict=True) if may[o])
        found.update(o for _, o in ranked[:NEIGHBOURS])
    return {int(o) for o in found}


@pytest.mark.parametrize("size", [0, 50, 130, 400, 1_500])
@pytest.mark.parametrize("hidden_share", [0.0, 0.02, 0.3, 0.97, 1.0])
def test_candidates_are_the_best_of_what_may_be_shown(size: int, hidden_share: float) -> None:
    rng = np.random.default_rng(size)
    pools = made_pools(rng, size)
    near = np.sort(rng.choice(SPAN, 2 * size, replace=False)).astype(np.int64)
    sums = rng.random((2 * size, len(SUMS))).astype(np.float32)
    may_S = rng.random(SPAN) >= hidden_share
    beside = Near(near, sums, np.full(1, -1, np.int32))
    found = candidates(pools, beside, NOTHING, AS_OF_MS, Shown(None, NOTHING, may_S))
    assert found.tolist() == sorted(brute(pools, near, sums, may_S))


def test_the_most_active_who_are_hidden_leave_their_place_to_the_next() -> None:
    """More hidden at the front than are spare: the pool is looked through."""
    rng = np.random.default_rng(0)
    pools = made_pools(rng, 1_000)
    may_S = np.ones(SPAN, np.bool_)
    may_S[pools.active[np.argsort(-pools.sums[:, 0])[:300]]] = False
    nobody = Near.nobody()
    found = candidates(pools, nobody, NOTHING, AS_OF_MS, Shown(None, NOTHING, may_S))
    assert set(found.tolist()) == brute(pools, nobody.ordinals, nobody.sums, may_S)


@pytest.mark.parametrize("hidden", [0, 200])
def test_a_pool_of_the_best_gives_what_one_of_all_that_was_acted_on_gives(hidden: int) -> None:
    rng = np.random.default_rng(hidden)
    pools = made_pools(rng, 2_500)
    best = most_active(pools.active, pools.sums, POOL)
    assert len(best) < len(pools.active)
    of_best = pools.sums[np.searchsorted(pools.active, best)]
    smaller = Pools(best, of_best, pools.newest, pools.published)
    may_S = np.ones(SPAN, np.bool_)
    may_S[rng.choice(SPAN, hidden, replace=False)] = False
    shown, nobody = Shown(None, NOTHING, may_S), Near.nobody()
    found = [candidates(of, nobody, NOTHING, AS_OF_MS, shown).tolist() for of in (pools, smaller)]
    assert found[0] == found[1]
