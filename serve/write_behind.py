"""What may be written after the answer: exposures and folded sessions, in groups, off the path.

Both are worth having and neither is a promise: a session is a cache of the fold, an exposure a
record of what was shown. So the queue is bounded, what does not fit is dropped and counted, and
what a crash takes is at most `FLUSH_INTERVAL_S` of them.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from serve.counts import wall_ms
from sql.errors import StoreError
from sql.exposures import Exposure, write_exposures
from sql.sessions import SessionRow, write_sessions

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 1.0
FLUSH_ROWS = 25
"""Of one transaction: SQLite has one writer, and acknowledgements wait for it."""
FLUSH_PAUSE_S = 0.005
"""After each: whoever waits to be acknowledged comes first."""


class WriteBehind:
    """A thread that writes what was handed to it. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        max_queue: int,
        sleep: Callable[[float], None] = time.sleep,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._now_ms = now_ms
        self._engine = engine
        self._sleep = sleep
        self._max_queue = max_queue
        self._exposures: deque[Callable[[], Exposure]] = deque()
        self._sessions: dict[tuple[str, int], SessionRow] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self.dropped = 0
        """Rows that did not fit or could not be written."""
        self.dropped_at_ms: int | None = None
        """When the first of them was."""

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left and end the thread."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def expose(self, exposure: Callable[[], Exposure]) -> None:
        """Record what was shown, soon. It is called in the thread that writes."""
        with self._lock:
            if len(self._exposures) >= self._max_queue:
                self._drop(1)
                return
            self._exposures.append(exposure)

    def keep_session(self, generation_id: str, row: SessionRow) -> None:
        """Write a folded session back, soon; of one user only the newest."""
        with self._lock:
            if len(self._sessions) >= self._max_queue:
                self._drop(1)
                return
            self._sessions[generation_id, row.user_key] = row

    def flush(self) -> None:
        """Write all that waits, now; after an error what is left waits for the next time."""
        while self._flush_some():
            self._sleep(FLUSH_PAUSE_S)

    def _drop(self, rows: int) -> None:
        self.dropped += rows
        self.dropped_at_ms = self.dropped_at_ms or self._now_ms()

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_INTERVAL_S):
            try:
                self.flush()
            except Exception:  # a bug of ours: without this thread nothing is recorded any more
                log.exception("rows were not written")
        self.flush()

    def _flush_some(self) -> bool:
        """Whether there was something, and it was written."""
        with self._lock:
            shown = [
                self._exposures.popleft() for _ in range(min(FLUSH_ROWS, len(self._exposures)))
            ]
            sessions, self._sessions = self._sessions, {}
        if not shown and not sessions:
            return False
        try:
            if shown:
                write_exposures(self._engine, [exposure() for exposure in shown])
            for generation_id in sorted({generation for generation, _ in sessions}):
                rows = [r for (g, _), r in sessions.items() if g == generation_id]
                write_sessions(
                    self._engine,
                    generation_id,
                    rows,
                    chunk=FLUSH_ROWS,
                    pause_s=FLUSH_PAUSE_S,
                    sleep=self._sleep,
                )
        except (SQLAlchemyError, StoreError) as error:
            self._drop(len(shown) + len(sessions))
            log.warning("dropped %d rows: %s", len(shown) + len(sessions), error)
            return False
        return True
