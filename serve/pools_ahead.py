"""The pools of the next second are made before the last ones are too old, beside the requests.

What is acted on is read again each second, and what is made of it is for all lists of that second.
Where a request had to make it, it waited for 50 to 300 ms, and those behind it, too: one list in
twenty. A thread makes it ahead while lists are asked for; an idle replica does nothing.
"""

import logging
import threading
from collections.abc import Callable

from serve.problems import ProblemError
from sql.errors import StoreError

log = logging.getLogger(__name__)

LOOK_S = 0.1


class PoolsAhead:
    """A thread that calls `make_ready` ten times a second; that decides whether anything is due."""

    def __init__(self, make_ready: Callable[[], None]) -> None:
        self._make_ready = make_ready
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pools-ahead", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self._make_ready()
            except (StoreError, ProblemError) as error:
                log.info("pools were not made ahead: %s", error)
            except Exception:  # a bug of ours; requests make them, and wait
                log.exception("pools were not made ahead")
