"""Neighbours against brute force: cosines of weighted columns, and the dense linear autoencoder."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_jobs.ranking import linear as linear_module
from ray_jobs.ranking import neighbours as module
from ray_jobs.ranking.neighbours import DECAYS, SUMS, Neighbours, count_neighbours

SPAN = 9
RIDGE = 1.5
"""As small as these logs: with the shipped one a wrong weight would differ by nothing."""


@pytest.fixture(autouse=True)
def small_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "RIDGE", RIDGE)


pairs = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, SPAN - 1)), max_size=60)


def seen_by(log: list[tuple[int, int]]) -> np.ndarray:
    users = sorted({user for user, _ in log})
    seen = np.zeros((len(users), SPAN))
    for user, item in log:
        seen[users.index(user), item] = 1
    return seen


def cosines(log: list[tuple[int, int]]) -> np.ndarray:
    seen = seen_by(log)
    weights = 1 / np.sqrt(np.maximum(seen.sum(axis=1), 1))
    both = (seen * weights[:, None]).T @ seen
    norms = np.sqrt(np.maximum(np.diag(both), 1e-12))
    found = both / norms / norms[:, None]
    np.fill_diagonal(found, 0)
    return found


def linear(log: list[tuple[int, int]]) -> np.ndarray:
    seen = seen_by(log)
    inverse = np.linalg.inv(seen.T @ seen + RIDGE * np.eye(SPAN))
    found = -inverse / np.diag(inverse)
    np.fill_diagonal(found, 0)
    return found


def of(log: list[tuple[int, int]], each: int = 100) -> Neighbours:
    users, items = (np.array([pair[n] for pair in log], np.int64) for n in (0, 1))
    return count_neighbours(users, items, SPAN, each)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(log=pairs, each=st.integers(1, SPAN))
def test_each_item_keeps_its_nearest(log: list[tuple[int, int]], each: int) -> None:
    found = of(log, each)
    for column, right in enumerate((cosines(log), linear(log))):
        size = np.abs(right)
        for item in range(SPAN):
            entries = slice(int(found.offsets_S1[item]), int(found.offsets_S1[item + 1]))
            weights = found.weights_E2[entries, column].astype(np.float64)
            beside = found.ordinals_E[entries]
            assert (np.diff(beside) > 0).all()
            kept = weights != 0
            np.testing.assert_allclose(weights[kept], right[item, beside[kept]], atol=1e-3)
            assert kept.sum() <= each
            best = np.sort(size[item])[::-1][:each].sum()
            np.testing.assert_allclose(np.abs(weights).sum(), best, atol=5e-3)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(log=pairs, recent=st.lists(st.integers(-2, SPAN + 2), max_size=6, unique=True))
def test_what_is_near_to_recent_items_is_summed_by_position(
    log: list[tuple[int, int]], recent: list[int]
) -> None:
    near, far = cosines(log), linear(log)
    expected = np.zeros((SPAN, len(SUMS)))
    for position, item in enumerate(recent):
        if 0 <= item < SPAN:
            for d, base in enumerate(DECAYS):
                expected[:, d] += base**position * near[item]
            expected[:, -1] += DECAYS[-1] ** position * far[item]
    ordinals, sums, _ = of(log).near(np.array(recent, np.int64))
    assert set(ordinals.tolist()) >= set(np.flatnonzero(expected[:, 0]).tolist())
    np.testing.assert_allclose(sums, expected[ordinals], atol=5e-3)


def test_nobody_has_no_neighbours() -> None:
    ordinals, sums, _ = Neighbours.nobody().near(np.array([0, 1]))
    assert ordinals.shape == (0,)
    assert sums.shape == (0, len(SUMS))
    assert of([]).near(np.array([3]))[0].tolist() == []


def test_a_robot_counts_with_its_newest_items_only(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_ITEMS_A_USER", 2)
    found = of([(1, 0), (1, 1), (1, 2), (1, 1)])  # 1 and 2 are the newest; 1 came again
    assert found.near(np.array([0]))[0].tolist() == []
    assert found.near(np.array([2]))[0].tolist() == [1]


def test_of_a_large_catalog_the_most_taken_items_have_linear_weights(monkeypatch) -> None:
    monkeypatch.setattr(linear_module, "MOST_ITEMS", 3)
    log = [(user, item) for item in range(5) for user in range(item + 2)]
    found = of(log)
    rows = np.repeat(np.arange(SPAN), np.diff(found.offsets_S1))
    told = found.weights_E2[:, 1] != 0
    assert set(rows[told].tolist()) == set(found.ordinals_E[told].tolist()) == {2, 3, 4}
    assert set(rows.tolist()) == {0, 1, 2, 3, 4}
