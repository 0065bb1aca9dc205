"""A timeline knows what came before, and what that makes most active and newest."""

from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.ranking import timeline as module
from ray_jobs.ranking.activity import HORIZONS_DAYS, MONTH, Tally
from ray_jobs.ranking.timeline import Timeline
from ray_jobs.ranking.trend import HOUR_MS

SPAN = 12


@settings(max_examples=80, deadline=None)
@given(
    log=st.lists(
        st.tuples(st.integers(0, 100), st.integers(0, SPAN - 1), st.sampled_from([0.0, 1.0, 8.0])),
        min_size=1,
        max_size=40,
    ),
    start=st.integers(0, 40),
    pool=st.integers(1, SPAN),
)
def test_wherever_it_starts_it_knows_what_was_before(
    log: list[tuple[int, int, float]], start: int, pool: int
) -> None:
    log = sorted(log, key=lambda event: event[0])
    at, ordinals, weights = (np.array(column) for column in zip(*log, strict=True))
    at = at * HOUR_MS // 3
    start = min(start, len(log))
    published = np.where(np.arange(SPAN) % 3 == 0, -1, np.arange(SPAN) * HOUR_MS)
    timeline = Timeline(at, ordinals, weights.astype(np.float32), published, start)
    everything = np.arange(SPAN)
    with patch.object(module, "POOL", pool):
        for end in range(start, len(log) + 1):
            at_ms = int(at[end - 1]) + 1 if end else 0
            pools = timeline.forward(end, at_ms)
            right = Tally(SPAN)
            for event in range(end):
                right.add(int(ordinals[event]), int(at[event]), float(weights[event]))
            sums = right.at(everything, at_ms)
            np.testing.assert_allclose(timeline.tally.at(everything, at_ms), sums, rtol=1e-4)
            np.testing.assert_allclose(pools.sums, sums[pools.active], rtol=1e-4)
            known = np.flatnonzero((published >= 0) & (published <= at_ms))
            assert set(known[-pool:]) <= set(pools.newest.tolist())
            assert (published[pools.newest] <= at_ms).all()
            for horizon in range(len(HORIZONS_DAYS)):  # as of the start of the hour, and what came
                best = np.sort(sums[:, horizon])[::-1][0]
                assert best == 0 or sums[pools.active, horizon].max() >= best * (1 - 1e-4)
        month = timeline.tally.at(everything, at_ms)[:, MONTH].sum()
        assert timeline.month <= month * 1.01 + 1e-6
