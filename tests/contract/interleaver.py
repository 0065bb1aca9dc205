"""Runs writers on Postgres one statement at a time, in an order that a seed decides.

Each writer is a thread with connections of its own. Before each statement and each commit it stands
at a gate; the coordinator opens one gate, and waits until that writer stands at its next one, is
done, or waits for a lock of another (Postgres says so). So the interleaving is the seed's, not the
machine's.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from sqlalchemy import Engine, event, make_url, text

from sql.engine import open_engine

T = TypeVar("T")
STUCK_AFTER_S = 60.0

_BLOCKED = text(
    "SELECT application_name FROM pg_stat_activity "
    "WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
)


class _Writer(threading.Thread, Generic[T]):
    def __init__(self, name: str, url: str, work: Callable[[Engine], T]) -> None:
        super().__init__(name=name, daemon=True)
        named = make_url(url).update_query_dict({"application_name": name})
        self.engine = open_engine(named.render_as_string(hide_password=False))
        self._work = work
        self._gate = threading.Semaphore(0)
        self.at_gate = threading.Event()
        self.result: T | None = None
        self.error: BaseException | None = None
        event.listen(self.engine, "before_cursor_execute", self._stand)
        event.listen(self.engine, "commit", self._stand)

    def _stand(self, *_: Any) -> None:
        self.at_gate.set()
        assert self._gate.acquire(timeout=STUCK_AFTER_S), "the coordinator is gone"

    def open(self) -> None:
        self.at_gate.clear()
        self._gate.release()

    def run(self) -> None:
        try:
            self.result = self._work(self.engine)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: told to the test
            self.error = error


def interleave(
    monitor: Engine, url: str, works: list[Callable[[Engine], T]], seed: int
) -> tuple[list[T], int]:
    """What each writer returned, and how often one had to wait for another's lock.

    Raises what a writer raised (a deadlock, for one).
    """
    rng = np.random.default_rng(seed)
    writers = [_Writer(f"writer-{n}", url, work) for n, work in enumerate(works)]
    for writer in writers:
        writer.start()
    waited = 0
    try:
        while True:
            standing, blocked = _settled(monitor, writers)
            waited += blocked
            if not standing:
                break
            standing[rng.integers(len(standing))].open()
    finally:
        for writer in writers:
            writer.join(timeout=STUCK_AFTER_S)
            writer.engine.dispose()
    for writer in writers:
        if writer.error is not None:
            raise writer.error
    return [writer.result for writer in writers], waited  # type: ignore[misc]


def _settled(monitor: Engine, writers: list[_Writer[T]]) -> tuple[list[_Writer[T]], int]:
    """Who stands at a gate, once nobody runs; and how many wait for a lock."""
    deadline_s = time.monotonic() + STUCK_AFTER_S
    while True:
        alive = [writer for writer in writers if writer.is_alive()]
        running = [writer for writer in alive if not writer.at_gate.is_set()]
        standing = [writer for writer in alive if writer.at_gate.is_set()]
        if not running:
            return standing, 0
        with monitor.connect() as conn:
            blocked = set(conn.execute(_BLOCKED).scalars())
        # All blocked and none standing: a deadlock, which Postgres ends within a second.
        if standing and all(writer.name in blocked for writer in running):
            return standing, len(running)
        assert time.monotonic() < deadline_s, f"stuck: {[writer.name for writer in running]}"
        time.sleep(0.001)
