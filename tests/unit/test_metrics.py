"""The figures we publish are right on data whose answer is known without a tolerance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.ranking.metrics import (
    UNRANKED,
    coverage,
    hit_rate,
    mrr,
    ndcg_at_k,
    ranks_of_targets,
    top_k,
)


def test_a_perfect_model_scores_one_and_a_missing_target_zero() -> None:
    best, lost = np.zeros(3, np.int64), np.full(3, UNRANKED, np.int64)
    assert (ndcg_at_k(best, 10), hit_rate(best, 1), mrr(best)) == (1.0, 1.0, 1.0)
    assert (ndcg_at_k(lost, 10), hit_rate(lost, 10), mrr(lost)) == (0.0, 0.0, 0.0)


def test_known_ranks_give_known_figures() -> None:
    ranks = np.array([0, 2, 9, 10])
    assert ndcg_at_k(ranks, 10) == pytest.approx((1 + 0.5 + 1 / math.log2(11)) / 4)
    assert hit_rate(ranks, 10) == 0.75
    assert mrr(ranks) == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 11) / 4)


def test_a_model_that_gives_all_items_the_same_score_gets_no_gift() -> None:
    scores = np.zeros((4, 4))
    assert ranks_of_targets(scores, np.arange(4)).tolist() == [0, 1, 2, 3]
    assert top_k(scores, 2).tolist() == [[0, 1]] * 4


def test_barred_items_are_not_ranked() -> None:
    scores = np.array([[3.0, 2.0, 1.0]] * 2)
    barred = np.array([[True, False, False], [False, False, True]])
    assert ranks_of_targets(scores, np.array([2, 2]), barred).tolist() == [1, UNRANKED]
    assert top_k(scores, 3, barred).tolist() == [[1, 2, -1], [0, 1, -1]]


def test_nan_is_the_worst_score() -> None:
    scores = np.array([[np.nan, 1.0], [np.nan, 1.0]])
    assert ranks_of_targets(scores, np.array([0, 1])).tolist() == [UNRANKED, 0]
    assert top_k(scores, 2).tolist() == [[1, 0], [1, 0]]


@given(st.data())
def test_the_rank_is_the_place_in_the_list(data: st.DataObject) -> None:
    items = data.draw(st.integers(1, 8))
    row = data.draw(st.lists(st.integers(0, 3), min_size=items, max_size=items))
    bars = data.draw(st.lists(st.booleans(), min_size=items, max_size=items))
    target = data.draw(st.integers(0, items - 1))
    scores, barred = np.array([row], float), np.array([bars])
    rank = int(ranks_of_targets(scores, np.array([target]), barred)[0])
    order = top_k(scores, items, barred)[0].tolist()
    assert rank == (order.index(target) if target in order else UNRANKED)


def test_coverage_counts_each_item_once_and_no_padding() -> None:
    assert coverage([[0, 1], [1, 2], [-1, -1]], 6) == 0.5


@pytest.mark.parametrize("ranks", [[], [-1]])
def test_no_figure_without_ranks(ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="rank"):
        ndcg_at_k(np.array(ranks, np.int64), 10)


def test_ranks_refuse_targets_that_are_no_items() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        ranks_of_targets(np.zeros((1, 2)), np.array([2]))
