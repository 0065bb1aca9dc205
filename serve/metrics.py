"""Tells Prometheus of a replica, of the live generation and of the nights (`serve.metric_names`).

Two threads, so that no request waits: one hands on what was counted (`serve.counts`) each second,
also while the database is away; the other reads the registry every few. Beside these Ray
and Serve tell of themselves. Without a live generation nothing is told of one.
"""

import logging
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from serve import metric_names as names
from serve import readings
from serve.counts import Counts
from serve.generation_watch import GenerationWatch
from serve.loaded_generation import LoadedGeneration
from serve.periodic import Periodic
from serve.write_behind import WriteBehind
from sql import activity, erasure_receipts, generations
from sql.engine import read_snapshot
from sql.errors import StoreError
from sql.size import database_size_bytes

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

COUNTS_INTERVAL_S = 1.0
"""Of what was counted: each round hands on all that came meanwhile, some 3 us a request."""

Reading = readings.Reading
Tell = Callable[[Reading], None]


class Told(NamedTuple):
    """What the metrics are about: parts of a replica."""

    engine: Engine
    artifact_root: Path
    watch: GenerationWatch[LoadedGeneration]
    counts: Counts
    write_behind: WriteBehind
    now_ms: Callable[[], int]
    interval_s: float


class Metrics:
    """Two threads that read, and hand each reading to `tell`."""

    def __init__(self, told: Told, tell: Tell) -> None:
        self._told, self._tell = told, tell
        self._before: dict[Hashable, int] = {}
        self._is_first = True
        self._last_event_ms: int | None = None
        self._rounds = Periodic("metrics", told.interval_s, self.look)
        self._counts = Periodic("counts", COUNTS_INTERVAL_S, self.hand_on)

    def start(self) -> None:
        """Begin to tell."""
        self._rounds.start()
        self._counts.start()

    def stop(self) -> None:
        """End the threads; what was counted last is told."""
        self._rounds.stop()
        self._counts.stop()
        self.hand_on()

    def hand_on(self) -> None:
        """One round of what was counted."""
        counts = self._told.counts
        for (route, method, status), n in self._new(names.REQUESTS, counts.answered):
            labels = {"route": route, "method": method, "status": str(status)}
            self._tell(Reading(names.REQUESTS, n, labels))
        for reason, n in self._new(names.DEGRADED, counts.degraded):
            self._tell(Reading(names.DEGRADED, n, {"reason": reason}))
        for outcome, n in self._new(names.EVENTS, counts.events):
            self._tell(Reading(names.EVENTS, n, {"outcome": outcome}))
        for _, n in self._new(names.DROPPED, {"": self._told.write_behind.dropped}):
            self._tell(Reading(names.DROPPED, n))
        for route, seconds in counts.take_durations():
            self._tell(Reading(names.DURATION, seconds, {"route": route}))
        for seconds in counts.take_visible():
            self._tell(Reading(names.EVENT_TO_VISIBLE, seconds))

    def _new(self, name: str, totals: Mapping[K, int]) -> Iterator[tuple[K, int]]:
        """What came since the last round. A copy first: the loop goes on counting."""
        for key, total in dict(totals).items():
            came = total - self._before.get((name, key), 0)
            if came:
                self._before[name, key] = total
                yield key, came

    def look(self) -> None:
        """One round of what is read."""
        told = self._told
        for reading in self._of_the_replica():
            self._tell(reading)
        try:
            self._look_at_the_registry()
        except (SQLAlchemyError, StoreError):
            self._tell(Reading(names.DATABASE_UP, 0))
            raise
        self._tell(Reading(names.DATABASE_SIZE, database_size_bytes(told.engine)))

    def _of_the_replica(self) -> Iterator[Reading]:
        told = self._told
        disk = shutil.disk_usage(told.artifact_root)
        yield Reading(names.DISK_FREE, disk.free)
        yield Reading(names.DISK_SIZE, disk.total)

    def _tell_the_last_event(self) -> None:
        """Asked of the database once, so that a new replica tells of silence, too."""
        told = self._told
        if self._is_first:
            self._last_event_ms = activity.last_event_ms(told.engine, told.now_ms())
            self._is_first = False
        self._last_event_ms = told.counts.last_event_ms or self._last_event_ms
        if self._last_event_ms is not None:
            self._tell(Reading(names.LAST_EVENT, self._last_event_ms / 1000))

    def _look_at_the_registry(self) -> None:
        told = self._told
        with read_snapshot(told.engine) as conn:
            pointer = generations.read_live(conn)
            known = generations.list_generations(conn)
            leases = generations.fresh_replicas(conn)
            open_since_ms = erasure_receipts.open_since_ms(conn)
            held = told.watch.loaded.get(pointer.generation_id) if pointer else None
            behind_ms = held.behind_ms(conn, told.now_ms()) if held else 0
        # Before anything is made of it: a row that we cannot read is no database that is away.
        self._tell(Reading(names.DATABASE_UP, 1))
        self._tell_the_last_event()
        self._tell(readings.of_erasures(open_since_ms, told.now_ms()))
        for reading in readings.of_the_registry(pointer, known, leases, told.now_ms()):
            self._tell(reading)
        if pointer is None:
            return
        for reading in readings.of_refusals(pointer, known, told.watch.refused):
            self._tell(reading)
        if held is not None:
            share = held.view.delta.count / max(1, held.manifest.item_count)
            self._tell(Reading(names.DELTA_SHARE, share))
            self._tell(Reading(names.CATALOG_LAG, behind_ms / 1000))
