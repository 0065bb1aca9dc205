"""What everybody did before a moment, and what that makes most active and newest then.

For whoever walks a log in order of time: the night's replay, and the replays of `moonlark
evaluate`. By day `serve.fused` has the same from the night's sums and the hours since.

Shapes: E events (by time), S ordinals, P pool.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_jobs.ranking.activity import Tally
from ray_jobs.ranking.sources import POOL, Pools, most_active
from ray_jobs.ranking.trend import HOUR_MS

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Timeline:
    """Stands before an event and only moves forward.

    Args:
        at_ms_E, ordinals_E, weights_E: the events, their times ascending; one of weight 0 says
            nothing for its item.
        published_S: when each item was published, -1 where nobody says.
        start: the first event that is not known yet.
    """

    def __init__(
        self, at_ms_E: Ints, ordinals_E: Ints, weights_E: Floats, published_S: Ints, start: int
    ) -> None:
        self._at_E, self._ordinals_E, self._weights_E = at_ms_E, ordinals_E, weights_E
        self._next = start
        self.tally = Tally.of_events(
            len(published_S),
            ordinals_E[:start],
            at_ms_E[:start],
            weights_E[:start],
            int(at_ms_E[start - 1]) if start else 0,
        )
        self.published_S = published_S
        self._by_date = np.argsort(published_S, kind="stable")
        self._dates = published_S[self._by_date]
        self._active: Ints = np.zeros(0, np.int64)
        self._hour = -1
        self.month = 0.0
        """Activity of the last month, of all items together, as of the last hour."""

    def forward(self, end: int, at_ms: int) -> Pools:
        """Know the events before number `end`; what may be shown at `at_ms`.

        The most active of all are looked for once an hour; what was acted on since is added.
        """
        rows = np.arange(self._next, max(self._next, end))
        rows = rows[self._weights_E[rows] > 0]
        for row in rows.tolist():
            ordinal, weight = int(self._ordinals_E[row]), float(self._weights_E[row])
            self.tally.add(ordinal, int(self._at_E[row]), weight)
        self._next = max(self._next, end)
        if at_ms // HOUR_MS != self._hour:
            self._hour = at_ms // HOUR_MS
            everything = np.arange(len(self.published_S))
            self._active = most_active(everything, self.tally.at(everything, at_ms), POOL)
            self.month = self.tally.month(at_ms)
        else:
            self._active = np.union1d(self._active, self._ordinals_E[rows])
        last = int(np.searchsorted(self._dates, at_ms, side="right"))
        newest = self._by_date[max(0, last - POOL) : last]
        return Pools(
            self._active,
            self.tally.at(self._active, at_ms),
            newest,
            self.published_S[newest],
        )
