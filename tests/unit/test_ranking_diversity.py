"""Diversity: against the formula, one item after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.ranking.candidates import Candidates
from ray_jobs.ranking.diversity import diverse_order
from ray_jobs.ranking.rerank import Pin, rerank


def by_the_formula(scores: list[float], vectors: np.ndarray, d: float) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < len(scores):
        left = [row for row in range(len(scores)) if row not in chosen]
        likeness = [max((vectors[row] @ vectors[j] for j in chosen), default=0) for row in left]
        relevance = np.array([scores[row] for row in left])
        values = (1 - d) * relevance - d * np.array(likeness)
        chosen.append(left[int(np.argmax(np.round(values, 5)))])
    return chosen


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 12),
    diversity=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    seed=st.integers(0, 99),
)
def test_each_place_is_the_best_that_is_left(count: int, diversity: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.choice(np.arange(200), count, replace=False))[::-1] / 100
    vectors = rng.normal(size=(count, 3))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = diverse_order(scores.astype(np.float32), vectors, diversity).tolist()
    assert found == by_the_formula(scores.tolist(), vectors, diversity)
    if diversity == 0:
        assert found == list(range(count))


def test_a_twin_of_the_first_goes_behind_what_is_unlike_it() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert diverse_order(np.array([0.9, 0.8, 0.5], np.float32), vectors, 0.5).tolist() == [0, 2, 1]


@pytest.mark.parametrize("diversity", [-0.1, 1.1, float("nan")])
def test_a_share_lies_between_0_and_1(diversity: float) -> None:
    with pytest.raises(ValueError, match="diversity"):
        diverse_order(np.zeros(1, np.float32), np.zeros((1, 2), np.float32), diversity)


def test_the_first_come_first_the_rest_by_score_and_pins_keep_their_place() -> None:
    found = Candidates(np.array([5, 4, 3, 2], np.float32), np.array([10, 11, 12, 13]))
    listed = rerank(found, first=np.array([12, 99, 10]), pins=[Pin(2, 13)], k=9)
    assert listed.ordinals.tolist() == [12, 13, 10, 11]
