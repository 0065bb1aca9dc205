"""Neighbours against brute force: cosines of the columns of the user-item matrix."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.ranking import neighbours as module
from ray_jobs.ranking.neighbours import DECAYS, Neighbours, count_neighbours

SPAN = 9
pairs = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, SPAN - 1)), max_size=60)


def cosines(log: list[tuple[int, int]]) -> np.ndarray:
    users = sorted({user for user, _ in log})
    seen = np.zeros((len(users), SPAN))
    for user, item in log:
        seen[users.index(user), item] = 1
    norms = np.maximum(np.sqrt((seen**2).sum(axis=0)), 1)
    found = (seen / norms).T @ (seen / norms)
    np.fill_diagonal(found, 0)
    return found


def of(log: list[tuple[int, int]], each: int = 100) -> Neighbours:
    users, items = (np.array([pair[n] for pair in log], np.int64) for n in (0, 1))
    return count_neighbours(users, items, SPAN, each)


@settings(max_examples=80, deadline=None)
@given(log=pairs, each=st.integers(1, SPAN))
def test_each_item_keeps_its_nearest(log: list[tuple[int, int]], each: int) -> None:
    found, right = of(log, each), cosines(log)
    for item in range(SPAN):
        entries = slice(int(found.offsets_S1[item]), int(found.offsets_S1[item + 1]))
        weights = found.weights_E[entries].astype(np.float64)
        np.testing.assert_allclose(weights, right[item, found.ordinals_E[entries]], atol=1e-3)
        best = np.sort(right[item])[::-1][: min(each, np.count_nonzero(right[item]))]
        np.testing.assert_allclose(weights, best, atol=1e-3)


@settings(max_examples=80, deadline=None)
@given(log=pairs, recent=st.lists(st.integers(-2, SPAN + 2), max_size=6, unique=True))
def test_what_is_near_to_recent_items_is_summed_by_position(
    log: list[tuple[int, int]], recent: list[int]
) -> None:
    right = cosines(log)
    expected = np.zeros((SPAN, len(DECAYS)))
    for position, item in enumerate(recent):
        if 0 <= item < SPAN:
            for d, base in enumerate(DECAYS):
                expected[:, d] += base**position * right[item]
    ordinals, sums = of(log).near(np.array(recent, np.int64))
    assert ordinals.tolist() == sorted(np.flatnonzero(expected[:, 0]).tolist())
    np.testing.assert_allclose(sums, expected[ordinals], atol=5e-3)


def test_nobody_has_no_neighbours() -> None:
    ordinals, sums = Neighbours.nobody().near(np.array([0, 1]))
    assert ordinals.shape == (0,)
    assert sums.shape == (0, len(DECAYS))
    assert of([]).near(np.array([3]))[0].tolist() == []


def test_a_robot_counts_with_its_newest_items_only(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_ITEMS_A_USER", 2)
    found = of([(1, 0), (1, 1), (1, 2), (1, 1)])  # 1 and 2 are the newest; 1 came again
    assert found.near(np.array([0]))[0].tolist() == []
    assert found.near(np.array([2]))[0].tolist() == [1]
