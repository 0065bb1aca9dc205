"""What trends now, and what is shown to users without events. Counts of `item_activity`.

Activity is fresh within `REFRESH_MS` and outside the read-your-writes promise (DESIGN.md, 1);
`as_of` pins it for tests and explanations. The formulas are in `ray_jobs.ranking.trend`. An hour in
which very many items were acted on is read less often, so that what reading takes does not grow
with it (`ROWS_A_SECOND`); its age tells.

A refresh reads few hours, however many are asked for: those that still take events (this one and
the one before), those never read or read before they were over, and of the rest one, in turn,
since an undo takes an event off the hour in which it came: within as many seconds as hours held.
What is read ahead is read slice by slice, with pauses in which requests have the processor.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from ray_jobs.ranking.activity import Activity
from ray_jobs.ranking.trend import (
    HOUR_MS,
    KIND_WEIGHTS,
    NO_COUNTS,
    Counts,
    activity,
    for_new_users,
    hour_weights,
    trend,
)
from ray_jobs.shards.items import ItemTable
from sql.activity import hour_of, read_hour
from sql.engine import read_snapshot
from sql.errors import StoreUnavailable

log = logging.getLogger(__name__)

REFRESH_MS = 1_000
ROWS_A_SECOND = 20_000
"""Of `item_activity`, read for one hour."""
MAX_HOURS = 168
PAUSE_S = 0.02
"""Between two slices of an hour that is read ahead."""
NEW_USER_HOURS = 24
MAX_ITEMS_PER_HOUR = 20_000
"""Those most acted on: with MAX_HOURS hours some 40 MB."""


@dataclass(frozen=True)
class Trends:
    """By ordinal (S,): `scores` in standard deviations above the usual, and the `activity` they are
    of. `age_ms`: every event older than this is counted."""

    scores: NDArray[np.float32]
    activity: NDArray[np.float32]
    age_ms: int


@dataclass(frozen=True)
class _Hour:
    counts: Counts
    read_at_ms: int
    rows: int

    @property
    def until_ms(self) -> int:
        """While the hour takes events it is read again then."""
        return self.read_at_ms + max(REFRESH_MS, 1_000 * self.rows // ROWS_A_SECOND)


class _Since(NamedTuple):
    """`activity` since `hour`, made after so many `reads`, and when nothing of it is to be read
    again: what most requests of a second need."""

    hour: int
    reads: int
    fresh_ms: range
    activity: Activity

    def is_of(self, hour: int, as_of_ms: int) -> bool:
        at_ms = self.activity.at_ms
        is_near = 0 <= as_of_ms - at_ms < REFRESH_MS and hour_of(as_of_ms) == hour_of(at_ms)
        return self.hour == hour and is_near


class Trending:
    """Activity by hour. Thread-safe."""

    def __init__(self, engine: Engine, now_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._now_ms = now_ms
        self._reading = threading.Lock()
        """Who has it reads, and puts another mapping in the place of the one that is held."""
        self._held: Mapping[int, _Hour] = {}
        self._turned_at_ms = 0
        self._reads = 0
        self._since: _Since | None = None

    def now_ms(self) -> int:
        """The replica's clock."""
        return self._now_ms()

    def trends(self, items: ItemTable, as_of_ms: int, hours: int) -> Trends:
        """What trends in the `hours` (1..MAX_HOURS) before `as_of_ms`; of its own hour all."""
        assert 1 <= hours <= MAX_HOURS, hours
        weights = hour_weights(as_of_ms, hours)
        held, age_ms, _ = self._read(weights)
        counted = ((weight, held[hour].counts) for hour, weight in weights.items())
        active = activity(items.ordinal_span, counted)
        return Trends(trend(active, items.event_counts()), active, age_ms)

    def scores(self, items: ItemTable, as_of_ms: int) -> NDArray[np.float32]:
        """(S,) in 0..1: what a user without events is shown, popular and trending."""
        trends = self.trends(items, as_of_ms, NEW_USER_HOURS)
        return for_new_users(trends.scores, items.event_counts())

    def activity_since(self, hour: int, as_of_ms: int, early_ms: int = 0) -> Activity:
        """What was done from the start of `hour` to that of `as_of_ms`, of the last MAX_HOURS hours
        at most: what the night has not counted. The same object until something is read again:
        what is too old, or will be in `early_ms` (who is early has time, and pauses)."""
        last, kept = hour_of(as_of_ms), self._since
        soon_ms = self._now_ms() + early_ms
        if kept is not None and kept.is_of(hour, as_of_ms) and soon_ms in kept.fresh_ms:
            return kept.activity
        hours = range(max(hour, last - MAX_HOURS), last + 1)
        held, _, until_ms = self._read(hours, early_ms)
        fresh_ms = range(self._now_ms(), until_ms)
        if kept is not None and kept.is_of(hour, as_of_ms) and kept.reads == self._reads:
            made = kept.activity
        else:
            made = Activity.of_hours(((h, held[h].counts) for h in hours), as_of_ms)
        self._since = _Since(hour, self._reads, fresh_ms, made)
        return made

    def _read(
        self, wanted: Collection[int], early_ms: int = 0
    ) -> tuple[Mapping[int, _Hour], int, int]:
        """These hours, the age of those of them that still take events, and when something is to be
        read again."""
        now_ms, held = self._now_ms(), self._held
        is_needed = any(_is_stale(held, hour, now_ms + early_ms) for hour in wanted)
        # An hour whose turn it is can wait for another who reads; the request cannot.
        if (is_needed or self._is_turn(now_ms)) and self._reading.acquire(blocking=is_needed):
            try:
                held = self._read_again(wanted, early_ms)
            finally:
                self._reading.release()
        found = {hour: held[hour] for hour in wanted}
        now_ms = self._now_ms()
        open_ = [of_hour for hour, of_hour in found.items() if not _is_over(of_hour, hour)]
        age_ms = max((now_ms - of_hour.read_at_ms for of_hour in open_), default=0)
        until_ms = [self._turned_at_ms + REFRESH_MS, *(of_hour.until_ms for of_hour in open_)]
        return found, age_ms, min(until_ms)

    def _read_again(self, wanted: Collection[int], early_ms: int) -> Mapping[int, _Hour]:
        """What is held when those of `wanted` that are stale were read; to be called by one."""
        now_ms, held = self._now_ms(), self._held
        stale = [hour for hour in wanted if _is_stale(held, hour, now_ms + early_ms)]
        if self._is_turn(now_ms):
            over = [h for h in wanted if h not in stale and _is_over(held[h], h)]
            stale += sorted(over, key=lambda hour: held[hour].read_at_ms)[:1]
            self._turned_at_ms = now_ms
        if not stale:  # another has read it meanwhile
            return held
        self._reads += 1
        held = {**held, **self._refreshed(stale, now_ms, is_early=early_ms > 0)}
        near = range(hour_of(now_ms) - MAX_HOURS - 1, hour_of(now_ms) + 2)
        self._held = {hour: of_hour for hour, of_hour in held.items() if hour in near}
        return held

    def _is_turn(self, now_ms: int) -> bool:
        return not 0 <= now_ms - self._turned_at_ms < REFRESH_MS

    def _refreshed(
        self, hours: Collection[int], now_ms: int, *, is_early: bool
    ) -> dict[int, _Hour]:
        """Without the database what is held stays, and its age tells."""
        read: dict[int, _Hour] = {}
        pause = partial(time.sleep, PAUSE_S) if is_early else _no_pause
        try:
            with read_snapshot(self._engine) as conn:
                for hour in hours:
                    found = read_hour(conn, hour, KIND_WEIGHTS, MAX_ITEMS_PER_HOUR, pause)
                    read[hour] = _Hour((found.ordinals, found.sums), now_ms, found.rows)
        except StoreUnavailable as error:
            log.warning("activity is not refreshed: %s", error)
            unread = (hour for hour in hours if hour not in read and hour not in self._held)
            read |= {hour: _Hour(NO_COUNTS, 0, 0) for hour in unread}
        return read


def _no_pause() -> None:
    """Whoever waits for it wants it soon."""


def _is_stale(held: Mapping[int, _Hour], hour: int, now_ms: int) -> bool:
    of_hour = held.get(hour)
    if of_hour is None:
        return True
    return not _is_over(of_hour, hour) and now_ms not in range(of_hour.read_at_ms, of_hour.until_ms)


def _is_over(held: _Hour, hour: int) -> bool:
    """Whether it was read when no replica, however late its clock, added to it any more."""
    return held.read_at_ms >= (hour + 2) * HOUR_MS
