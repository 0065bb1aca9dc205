"""Pins and boosts against a plain model: a list into which the pinned items are inserted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.ranking.boosts import MAX_GROUPS, boost_groups, total_boosts
from ray_jobs.ranking.candidates import MAX_CANDIDATES, Candidates, candidates_wanted
from ray_jobs.ranking.rerank import Pin, rerank, weighed

ITEMS = 16
cosines = st.lists(st.sampled_from([-0.5, 0.0, 0.25, 1.0]), min_size=ITEMS, max_size=ITEMS)
weights = st.sampled_from([-1.0, -0.25, 0.25, 0.75])
boosts = st.lists(st.tuples(weights, st.sets(st.integers(0, ITEMS - 1))), max_size=5)
pins = st.lists(
    st.builds(Pin, position=st.integers(1, 20), ordinal=st.integers(0, ITEMS + 2)), max_size=6
)


def candidates_of(scores: list[float]) -> Candidates:
    return Candidates(np.array(scores, np.float32), np.arange(len(scores), dtype=np.int64))


def totals_of(boosted: list[tuple[float, set[int]]]) -> np.ndarray:
    return total_boosts(ITEMS, [(w, np.array(sorted(of), np.int64)) for w, of in boosted])


@settings(deadline=None)  # the first one compiles
@given(
    scores=cosines,
    boosted=boosts,
    pinned=pins,
    eligible=st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS),
    excluded=st.sets(st.integers(0, ITEMS - 1), max_size=5),
    k=st.integers(1, 7),
)
def test_the_pages_tile_the_list_into_which_the_pinned_items_are_inserted(
    scores, boosted, pinned, eligible, excluded, k
):
    total = {i: sum(w for w, of in boosted if i in of) for i in range(ITEMS)}
    score = {i: scores[i] + min(1.0, max(-1.0, total[i])) for i in range(ITEMS)}
    allowed = {i for i in range(ITEMS) if eligible[i] and i not in excluded}
    shown_pins: dict[int, int] = {}
    for pin in sorted(pinned, key=lambda pin: pin.position):
        if pin.ordinal in allowed:
            shown_pins.setdefault(pin.ordinal, pin.position)
    others = allowed - set(shown_pins)
    expected = sorted(others, key=lambda i: (-score[i], i))
    last = 0
    for ordinal, position in shown_pins.items():
        last = max(position, last + 1)
        expected.insert(last - 1, ordinal)  # beyond the end: at the end

    found = weighed(candidates_of(scores), boosts=totals_of(boosted))
    listed, at = [], []
    for offset in range(0, ITEMS, k):
        page = rerank(
            found,
            eligible=np.array(eligible),
            excluded=excluded,
            pins=pinned,
            k=k,
            offset=offset,
        )
        listed += page.ordinals.tolist()
        at += page.parts["pin"].tolist()
        parts = page.parts["cosine"] + page.parts["boost"]
        np.testing.assert_allclose(page.scores, parts)
        assert page.scores.tolist() == [score[i] for i in page.ordinals.tolist()]
    assert listed == expected
    assert at == [shown_pins.get(ordinal, 0) for ordinal in expected]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    several=st.integers(1, 40),
    k=st.integers(1, 30),
)
def test_the_nearest_of_each_group_hold_the_best_of_the_whole(seed, several, k):
    """Exactly up to MAX_GROUPS totals; beyond, none is missed by more than a bin's width."""
    rng = np.random.default_rng(seed)
    count = 300
    cosine = rng.uniform(-1, 1, count).astype(np.float32)
    levels = rng.uniform(-1, 1, several).astype(np.float32)
    totals = levels[rng.integers(several, size=count)]
    groups = boost_groups(totals)
    assert groups.max() < MAX_GROUPS
    found = [
        np.flatnonzero(groups == group)[np.argsort(-cosine[groups == group])[:k]]
        for group in np.unique(groups)
    ]
    fetched = np.concatenate(found)
    best = np.sort((cosine + totals)[fetched])[::-1][:k]
    truly = np.sort(cosine + totals)[::-1][:k]
    exact = len(np.unique(totals)) <= MAX_GROUPS
    width = 0.0 if exact else float(totals.max() - totals.min()) / MAX_GROUPS
    assert (truly - best).max() <= width + 1e-6


def test_boosts_add_up_and_are_cut():
    everything = np.ones(3, np.bool_)
    totals = total_boosts(3, [(0.75, everything), (0.75, np.array([1])), (-1.0, np.array([2]))])
    assert totals.tolist() == [0.75, 1.0, -0.25]


def test_boosts_beyond_their_end_are_zero_and_parts_that_are_there_stay():
    found = weighed(candidates_of([0.5, 0.5]), boosts=np.array([0.25], np.float32))
    assert found.scores.tolist() == [0.75, 0.5]
    again = weighed(found, boosts=np.array([0.0, 0.25], np.float32))
    assert again.scores.tolist() == [0.75, 0.75]
    assert list(again.parts) == ["cosine", "boost"]


def test_each_pin_needs_one_candidate_more_up_to_what_a_search_can_give():
    assert candidates_wanted(20, 0, pins=7) == candidates_wanted(20) + 7
    assert candidates_wanted(10, MAX_CANDIDATES - 10, pins=7) == MAX_CANDIDATES


def test_a_position_counts_from_one():
    with pytest.raises(ValueError, match="position"):
        Pin(0, 1)
