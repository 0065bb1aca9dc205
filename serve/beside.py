"""Work of a replica that may take minutes, in a thread beside what must go on meanwhile."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Beside(Generic[Made]):
    """Begins at once, in a daemon thread: a replica that is told to stop does not wait for it."""

    def __init__(self, name: str, work: Callable[[], Made]) -> None:
        self._work = work
        self._made: list[Made] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def is_over(self, wait_s: float | None = 0.0) -> bool:
        """Whether it has ended, after waiting so long for it at most; None: until then."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def result(self) -> Made:
        """What came of it, once it is over; or what it raised."""
        if self._error is not None:
            raise self._error
        (made,) = self._made
        return made

    def _run(self) -> None:
        try:
            self._made.append(self._work())
        except Exception as error:  # noqa: BLE001 - an edge: told to who asks for the result
            self._error = error
