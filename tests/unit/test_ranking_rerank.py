"""What is shown: eligible, not seen, not excluded, in one order, and pages that join up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.ranking.candidates import MIN_CANDIDATES, Candidates, candidates_wanted
from ray_jobs.ranking.rerank import rerank

rows = st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5]), st.integers(-1, 15)), max_size=25)
ordinal_sets = st.sets(st.integers(0, 18), max_size=8)


def candidates_of(pairs) -> Candidates:
    return Candidates(
        np.array([score for score, _ in pairs], dtype=np.float32),
        np.array([ordinal for _, ordinal in pairs], dtype=np.int64),
    )


@settings(deadline=None)  # the first one compiles
@given(
    pairs=rows,
    eligible=st.none() | st.lists(st.booleans(), max_size=16),
    seen=ordinal_sets,
    excluded=ordinal_sets,
    k=st.integers(1, 10),
    offset=st.integers(0, 10),
)
def test_rerank_equals_a_plain_sort(pairs, eligible, seen, excluded, k, offset):
    best: dict[int, float] = {}
    for score, ordinal in pairs:
        fits = eligible is None or (0 <= ordinal < len(eligible) and eligible[ordinal])
        if ordinal >= 0 and fits and ordinal not in seen | excluded:
            best[ordinal] = max(score, best.get(ordinal, -np.inf))
    expected = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[offset : offset + k]
    mask = None if eligible is None else np.array(eligible, dtype=np.bool_)
    shown = rerank(
        candidates_of(pairs),
        eligible=mask,
        seen=frozenset(seen),
        excluded=np.array(sorted(excluded), dtype=np.int64),
        k=k,
        offset=offset,
    )
    assert list(zip(shown.ordinals.tolist(), shown.scores.tolist(), strict=True)) == expected


def test_enough_candidates_are_asked_for_a_deep_page():
    assert candidates_wanted(20) == MIN_CANDIDATES
    assert candidates_wanted(20, 5_000) == 5_020
    for k, offset in ((0, 0), (1, -1), (10, 10_000)):
        with pytest.raises(ValueError, match="k must be"):
            candidates_wanted(k, offset)


def test_candidates_without_an_order_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        candidates_of([(float("nan"), 1)])
    with pytest.raises(ValueError, match="length"):
        Candidates(np.zeros(2, np.float32), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="k must be"):
        rerank(candidates_of([]), k=0)
