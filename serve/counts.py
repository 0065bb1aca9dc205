"""What a replica counts of its requests: plain numbers, so that a request pays a microsecond.

Only the replica's event loop counts. A thread (`serve.metrics`) reads: the totals, which never go
back, and the durations, which it takes away. Handing each request to Ray's metrics on its way would
cost 3 us an observation and 2 us a count (measured); so does one of the thread's, but nobody waits.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

MAX_WAITING = 100_000
"""Durations between two rounds of the thread; the oldest go first, should it stand still."""

Answered = tuple[str, str, int]
"""Route, method, status."""

OTHER_ROUTE = "other"
"""What is asked of no route of the API, and of the open ones."""

CLIENT_LEFT = 499
"""The status of a request whose client left before the answer (as nginx has it)."""


ERRORS, STORE_AWAY = "errors", "store_away"
"""Troubles besides the marks of lists: answers 5xx, those for want of the database among them."""

OVER_MS = 300_000
"""A trouble that was not met for so long is over; met again, it begins anew."""


def wall_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class Troubles:
    """Since when what goes wrong goes wrong."""

    def __init__(self, now_ms: Callable[[], int] = wall_ms) -> None:
        self._now_ms = now_ms
        self._spans: dict[str, tuple[int, int]] = {}

    def meet(self, name: str) -> None:
        """It went wrong now."""
        at_ms = self._now_ms()
        began_ms, last_ms = self._spans.get(name, (at_ms, at_ms))
        self._spans[name] = (began_ms if at_ms - last_ms <= OVER_MS else at_ms, at_ms)

    def since_ms(self) -> dict[str, int]:
        """When each one that is not over began."""
        at_ms = self._now_ms()
        spans = dict(self._spans).items()
        return {name: began for name, (began, last) in spans if at_ms - last <= OVER_MS}


class Counts:
    """Of one replica."""

    def __init__(self, now_ms: Callable[[], int] = wall_ms) -> None:
        self.troubles = Troubles(now_ms)
        self.answered: dict[Answered, int] = {}
        self.degraded: dict[str, int] = {}
        self.events: dict[str, int] = {}
        self.last_event_ms: int | None = None
        self._durations: deque[tuple[str, float]] = deque(maxlen=MAX_WAITING)
        self._visible: deque[float] = deque(maxlen=MAX_WAITING)

    def answer(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request has ended."""
        key = (route, method, status)
        answered = self.answered
        answered[key] = answered.get(key, 0) + 1
        if status >= 500 and route != OTHER_ROUTE:
            self.troubles.meet(ERRORS)
        self._durations.append((route, seconds))

    def mark(self, reasons: Iterable[str]) -> None:
        """A list was made; `reasons`: why it is less."""
        for reason in reasons:
            self.degraded[reason] = self.degraded.get(reason, 0) + 1
            self.troubles.meet(reason)

    def post(self, outcome: str, events: int) -> None:
        """What became of the events of a post: stored, duplicate, refused or failed."""
        if events:
            self.events[outcome] = self.events.get(outcome, 0) + events

    def visible(self, seconds: float, at_ms: int) -> None:
        """A post was committed at `at_ms`, so long after it came."""
        self.last_event_ms = at_ms
        self._visible.append(seconds)

    def take_durations(self) -> list[tuple[str, float]]:
        """(route, seconds) of what was answered since the last call."""
        return _taken(self._durations)

    def take_visible(self) -> list[float]:
        """Seconds of what was committed since the last call."""
        return _taken(self._visible)


def _taken(waiting: deque[T]) -> list[T]:
    return [waiting.popleft() for _ in range(len(waiting))]
