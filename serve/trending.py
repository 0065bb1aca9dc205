"""What is popular now: the night's counts and the last day's activity. For users without events.

Activity is fresh within `REFRESH_S` and outside the read-your-writes promise (DESIGN.md, 1);
`as_of` pins it for tests and explanations.
"""

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from ray_jobs.shards.items import ItemTable
from sql.activity import hour_of, read_activity
from sql.engine import read_snapshot
from sql.events import SEEN_KINDS

HOURS = 24
REFRESH_S = 1.0


class Trending:
    """Popularity by ordinal. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._hour = -1
        self._read_at_s = 0.0
        self._counts: dict[int, int] = {}

    def scores(self, items: ItemTable, as_of_ms: int) -> NDArray[np.float32]:
        """(ordinal_span,) in 0..1: log of the events at the watermark and in the last 24 hours."""
        counts = items.event_counts().astype(np.float64)
        for ordinal, n in self._activity(hour_of(as_of_ms)).items():
            if ordinal < len(counts):
                counts[ordinal] += n
        scores = np.log1p(counts)
        highest = float(scores.max(initial=0.0))
        scaled: NDArray[np.float32] = (scores / highest if highest else scores).astype(np.float32)
        return scaled

    def _activity(self, hour: int) -> dict[int, int]:
        """Seen events by ordinal in the HOURS up to and with `hour`."""
        with self._lock:
            age_s = self._monotonic() - self._read_at_s
            if hour == self._hour and age_s < REFRESH_S:
                return self._counts
        counts: dict[int, int] = {}
        with read_snapshot(self._engine) as conn:
            for count in read_activity(conn, hour - HOURS + 1, hour + 1):
                if count.kind in SEEN_KINDS:
                    counts[count.ordinal] = counts.get(count.ordinal, 0) + count.n
        with self._lock:
            if hour == hour_of(self._now_ms()):  # only the present one is asked again and again
                self._hour, self._counts, self._read_at_s = hour, counts, self._monotonic()
        return counts
