"""The merge equals sorting everything, and the sorted-set helpers equal Python's sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.shards.merge import (
    in_sorted,
    merge_top_k,
    merge_top_k_batch,
    sorted_ordinals,
    union_sorted,
)

# Few distinct scores and ordinals, so that ties and repeats are the rule.
rows = st.tuples(st.sampled_from([-1.5, 0.0, 0.25, 1.0]), st.integers(-1, 12))
parts_strategy = st.lists(st.lists(rows, max_size=12), max_size=5)


def arrays(part):
    return (
        np.array([score for score, _ in part], dtype=np.float32),
        np.array([ordinal for _, ordinal in part], dtype=np.int64),
    )


def brute(parts, k):
    best: dict[int, float] = {}
    for score, ordinal in (row for part in parts for row in part):
        if ordinal >= 0:
            best[ordinal] = max(score, best.get(ordinal, -np.inf))
    ranked = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
    return [(score, ordinal) for ordinal, score in ranked]


@settings(deadline=None)  # the first one compiles
@given(parts=parts_strategy, k=st.integers(1, 20))
def test_merge_equals_sorting_everything(parts, k):
    scores, ordinals = merge_top_k([arrays(part) for part in parts], k)
    assert list(zip(scores.tolist(), ordinals.tolist(), strict=True)) == brute(parts, k)


@settings(deadline=None)
@given(parts=parts_strategy.filter(bool), k=st.integers(1, 20))
def test_a_batch_merges_each_row_and_pads(parts, k):
    width = max(len(part) for part in parts)
    padded = [part + [(0.0, -1)] * (width - len(part)) for part in parts]
    batch = [tuple(np.stack([column, column]) for column in arrays(part)) for part in padded]
    scores, ordinals = merge_top_k_batch(batch, k)
    expected = brute(parts, k)
    for row in range(2):
        real = ordinals[row] >= 0
        got = list(zip(scores[row][real].tolist(), ordinals[row][real].tolist(), strict=True))
        assert got == expected
        assert np.isneginf(scores[row][~real]).all()
    assert scores.shape == ordinals.shape == (2, k)


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="k must be"):
        merge_top_k([], 0)


@given(values=st.lists(st.integers(-3, 30)), kept=st.lists(st.integers(-3, 30)))
def test_sorted_sets_are_sets(values, kept):
    ordered = sorted_ordinals(kept)
    assert ordered.tolist() == sorted(set(kept))
    assert sorted_ordinals(np.array(kept, dtype=np.int64)).tolist() == ordered.tolist()
    assert sorted_ordinals(frozenset(kept)).tolist() == ordered.tolist()
    more = sorted_ordinals(values)
    assert union_sorted(ordered, more).tolist() == sorted(set(values) | set(kept))
    inside = in_sorted(np.array(values, dtype=np.int64), ordered)
    assert inside.tolist() == [value in set(kept) for value in values]
