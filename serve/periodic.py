"""A thread of a replica that does one thing again and again, beside the requests.

A round that fails is logged, and the next one is tried: without the thread a replica would load no
later generation, forget no erased user, and nobody would notice.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from serve.problems import ProblemError
from sql.errors import StoreError

log = logging.getLogger(__name__)

STOP_S = 10
"""So long `stop` waits for a round that has begun."""


class Periodic:
    """Calls `round_` every `interval_s` from `start` to `stop`.

    `level`: of the log line where the database is away; that is the store's trouble, and said
    elsewhere too. Any other failure is a bug of ours and logged with its trace.
    """

    def __init__(
        self,
        name: str,
        interval_s: float,
        round_: Callable[[], None],
        level: int = logging.WARNING,
    ) -> None:
        self._name, self._interval_s, self._round, self._level = name, interval_s, round_, level
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first round comes after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(timeout=STOP_S)

    def _run(self) -> None:
        _tell_the_kernel(self._name)
        while not self._stopping.wait(self._interval_s):
            try:
                self._round()
            except (SQLAlchemyError, StoreError, ProblemError) as error:
                log.log(self._level, "%s: a round was not done: %s", self._name, error)
            except Exception:
                log.exception("%s: a round failed", self._name)


def _tell_the_kernel(name: str) -> None:
    """Linux: `top -H` then shows which thread takes the time (15 characters of the name)."""
    with suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name[:15])
