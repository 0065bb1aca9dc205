"""What counts as seen, and what trends, on numbers whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.ranking.seen import Seen, SeenRule, hidden_as_seen
from ray_jobs.ranking.trend import HOUR_MS, activity, for_new_users, hour_weights, trend

VIEW, BUY = 1, 16
rows = st.tuples(
    st.sampled_from([VIEW, 2, VIEW | 2, BUY, BUY | VIEW]), st.integers(0, 20), st.integers(0, 2)
)
rules = st.builds(
    SeenRule, kinds=st.integers(0, 31), buy_again_ms=st.none() | st.sampled_from([0, 5])
)


@given(
    seen=st.lists(rows, max_size=12),
    rule_list=st.lists(rules, min_size=3, max_size=3),
    as_of_ms=st.integers(0, 30),
)
def test_seen_is_what_the_rule_of_the_category_says(seen, rule_list, as_of_ms):
    expected = []
    for ordinal, (kinds, at_ms, number) in enumerate(seen):
        rule, bought = rule_list[number], bool(kinds & BUY)
        wait = rule.buy_again_ms
        again = bought and wait is not None and (wait == 0 or at_ms + wait <= as_of_ms)
        if kinds & rule.kinds and not again:
            expected.append(ordinal)
    kinds = np.array([row[0] for row in seen], np.uint8)
    hidden = hidden_as_seen(
        Seen(
            np.arange(len(seen)),
            kinds,
            kinds & BUY != 0,
            np.array([row[1] for row in seen], np.int64),
        ),
        rule_list,
        np.array([row[2] for row in seen], np.int64),
        as_of_ms,
    )
    assert hidden.tolist() == expected


def test_the_window_slides_and_old_hours_fade():
    weights = hour_weights(100 * HOUR_MS + HOUR_MS // 4, 4)
    assert weights == {100: 1.0, 99: 0.5**0.5, 98: 0.5, 97: 0.5**1.5, 96: 0.25 * 0.75}
    assert hour_weights(100 * HOUR_MS, 1)[99] == 0.25
    almost = hour_weights(101 * HOUR_MS - 1, 1)
    assert almost[99] == pytest.approx(0, abs=1e-6)


def test_activity_adds_hours_and_leaves_out_unknown_ordinals():
    hours = [
        (1.0, (np.array([0, 9]), np.array([2.0, 5.0], np.float32))),
        (0.5, (np.array([0, 2]), np.array([2.0, 4.0], np.float32))),
    ]
    assert activity(3, hours).tolist() == [3.0, 0.0, 2.0]


def test_a_best_seller_on_an_ordinary_day_does_not_trend():
    usual = np.array([900, 90, 10, 0], np.int64)
    ordinary = np.array([90, 9, 1, 0], np.float32)
    np.testing.assert_allclose(trend(ordinary, usual), 0, atol=1e-5)
    rising = np.array([90, 9, 13, 0], np.float32)
    scores = trend(rising, usual)
    assert scores.argmax() == 2
    assert scores[0] < 0
    expected = (13 - 1.12) / np.sqrt(1.12 + 1)
    assert scores[2] == pytest.approx(expected, rel=1e-5)


def test_without_a_night_the_most_active_trends():
    nothing = np.zeros(3, np.int64)
    assert trend(np.array([1, 4, 0], np.float32), nothing).tolist() == [1, 4, 0]


def test_a_new_user_sees_what_is_popular_and_what_trends():
    counts = np.array([100, 50, 0, 0], np.int64)
    quiet = for_new_users(np.zeros(4, np.float32), counts)
    assert np.argsort(-quiet, kind="stable").tolist() == [0, 1, 2, 3]
    lively = for_new_users(np.array([-3, 0, 9, 0], np.float32), counts)
    assert np.argsort(-lively, kind="stable").tolist() == [0, 2, 1, 3]
    assert lively.max() <= 1
    assert for_new_users(np.zeros(2, np.float32), np.zeros(2, np.int64)).tolist() == [0, 0]
