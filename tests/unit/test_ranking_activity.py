"""Sums over exponential windows: grown, made at once, or of hours, they are the same sums."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.ranking.activity import DAY_MS, HORIZONS_DAYS, Activity, Tally, weight_of
from ray_jobs.ranking.trend import HOUR_MS, Counts

SPAN = 6
NOW = 400 * 24 * HOUR_MS

events = st.lists(
    st.tuples(st.integers(0, SPAN - 1), st.integers(0, NOW), st.sampled_from([0.5, 1.0, 8.0])),
    max_size=30,
)


def brute_force(log: list[tuple[int, int, float]], at_ms: int) -> np.ndarray:
    sums = np.zeros((SPAN, len(HORIZONS_DAYS)))
    for ordinal, event_ms, weight in log:
        for h, days in enumerate(HORIZONS_DAYS):
            sums[ordinal, h] += weight * math.exp(-(at_ms - event_ms) / DAY_MS / days)
    return sums


@settings(max_examples=80, deadline=None)
@given(log=events, at_once=st.integers(0, 30), later=st.integers(0, 10 * DAY_MS))
def test_a_tally_is_the_sum_over_its_events(
    log: list[tuple[int, int, float]], at_once: int, later: int
) -> None:
    log = sorted(log, key=lambda event: event[1])
    first, rest = log[:at_once], log[at_once:]
    from_ms = rest[0][1] if rest else NOW
    columns = [np.array(column) for column in zip(*first, strict=True)] or [np.zeros(0, int)] * 3
    tally = Tally.of_events(
        SPAN, columns[0], columns[1].astype(np.int64), columns[2].astype(np.float32), from_ms
    )
    for event in rest:
        tally.add(*event)
    found = tally.at(np.arange(SPAN), NOW + later)
    np.testing.assert_allclose(found, brute_force(log, NOW + later), rtol=1e-4, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(log=events, cut=st.integers(0, NOW // HOUR_MS), later=st.integers(0, 10 * DAY_MS))
def test_the_hours_of_the_night_and_those_of_the_day_make_all(
    log: list[tuple[int, int, float]], cut: int, later: int
) -> None:
    middles = [(o, t // HOUR_MS * HOUR_MS + HOUR_MS // 2, w) for o, t, w in log]

    def hours(first: int, end: int) -> list[tuple[int, Counts]]:
        found = []
        for hour in range(first, end):
            inside = [(o, w) for o, t, w in middles if t // HOUR_MS == hour]
            ordinals = sorted({o for o, _ in inside})
            sums = [sum(w for other, w in inside if other == o) for o in ordinals]
            if ordinals:
                found.append((hour, (np.array(ordinals), np.array(sums, np.float32))))
        return found

    end = NOW // HOUR_MS + 1
    used = sorted({t // HOUR_MS for _, t, _ in middles})
    night = [pair for hour in used if hour < cut for pair in hours(hour, hour + 1)]
    day = [pair for hour in used if hour >= cut for pair in hours(hour, hour + 1)]
    at_ms = end * HOUR_MS + later
    everything = np.arange(SPAN)
    found = Activity.of_hours(night, cut * HOUR_MS).at(everything, at_ms)
    found = found + Activity.of_hours(day, end * HOUR_MS).at(everything, at_ms)
    np.testing.assert_allclose(found, brute_force(middles, at_ms), rtol=1e-4, atol=1e-6)


def test_a_negative_ordinal_is_refused() -> None:
    with pytest.raises(ValueError, match="-2"):
        Activity.of_hours([(0, (np.array([3, -2]), np.ones(2, np.float32)))], HOUR_MS)


def test_items_that_are_not_named_have_none_and_time_does_not_run_backward() -> None:
    activity = Activity.of_hours([(0, (np.array([3]), np.array([2.0], np.float32)))], HOUR_MS)
    earlier, now = activity.at(np.array([1, 3]), 0), activity.at(np.array([1, 3]), HOUR_MS)
    assert earlier.tolist() == now.tolist()
    assert not now[0].any()
    assert now[1].min() > 0


def test_a_dislike_says_nothing_for_an_item() -> None:
    assert weight_of("dislike") == weight_of("hide") == weight_of("undo") == 0
    assert weight_of("purchase") > weight_of("view") > 0
