"""The order of lists, by whole numbers, is that of sorting by score and ordinal."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.order import ranked_rows

scores = st.sampled_from([-np.inf, -2.5, -0.0, 0.0, 1e-42, 0.25, 1.0, np.inf])
ordinals = st.one_of(st.integers(-1, 12), st.sampled_from([2**31 - 1, 2**31, 2**40]))


@settings(deadline=None)
@given(
    st.lists(st.tuples(scores, ordinals), max_size=30),
    st.sets(st.integers(0, 12)),
    st.one_of(st.none(), st.lists(st.booleans(), max_size=14)),
)
def test_rows_are_those_of_sorting_what_may_be_shown(
    pairs: list[tuple[float, int]], hidden: set[int], eligible: list[bool] | None
) -> None:
    scores_N = np.array([score for score, _ in pairs], np.float32)
    ordinals_N = np.array([ordinal for _, ordinal in pairs], np.int64)
    mask = None if eligible is None else np.array(eligible, np.bool_)
    rows = ranked_rows(scores_N, ordinals_N, np.array(sorted(hidden), np.int64), mask)
    found = [(float(scores_N[row]), int(ordinals_N[row])) for row in rows]
    best: dict[int, float] = {}
    for score, ordinal in zip(scores_N.tolist(), ordinals_N.tolist(), strict=True):
        may = mask is None or (0 <= ordinal < len(mask) and bool(mask[ordinal]))
        if ordinal >= 0 and ordinal not in hidden and may:
            best[ordinal] = max(score, best.get(ordinal, -np.inf))
    assert found == sorted(
        ((score, ordinal) for ordinal, score in best.items()),
        key=lambda pair: (-pair[0], pair[1]),
    )
