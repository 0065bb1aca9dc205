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

SLOW_LISTS, SLOW_EVENTS = "slow_lists", "slow_events"
SLOW_LIST_S, SLOW_EVENT_S = 0.5, 1.0
"""As the alerts ListsSlow and EventsSlow have it."""
LIST_ROUTES = frozenset({"/v1/users/{user_id}/recommendations", "/v1/recommendations"})

MINUTE_MS = 60_000
RECENT_MINUTES = 5

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


class Recent:
    """Of what ended in the last five minutes, how much went wrong: by name, (all, wrong)."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._minutes: deque[tuple[int, dict[str, list[int]]]] = deque(maxlen=RECENT_MINUTES)

    def note(self, name: str, is_wrong: bool) -> None:
        """One more has ended."""
        minute = self._now_ms() // MINUTE_MS
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, {}))
        counted = self._minutes[-1][1].setdefault(name, [0, 0])
        counted[0] += 1
        counted[1] += is_wrong

    def counted(self) -> dict[str, tuple[int, int]]:
        """Of each name of which something ended. May be called from any thread."""
        after = self._now_ms() // MINUTE_MS - RECENT_MINUTES
        sums: dict[str, tuple[int, int]] = {}
        for minute, names in list(self._minutes):
            if minute > after:
                for name, (count, wrong) in list(names.items()):
                    before = sums.get(name, (0, 0))
                    sums[name] = before[0] + count, before[1] + wrong
        return sums


class Counts:
    """Of one replica."""

    def __init__(self, now_ms: Callable[[], int] = wall_ms) -> None:
        self.troubles = Troubles(now_ms)
        self.recent = Recent(now_ms)
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
        if route != OTHER_ROUTE:
            self._judge(ERRORS, status >= 500)
        if route in LIST_ROUTES:
            self._judge(SLOW_LISTS, seconds > SLOW_LIST_S)
        self._durations.append((route, seconds))

    def _judge(self, name: str, is_wrong: bool) -> None:
        self.recent.note(name, is_wrong)
        if is_wrong:
            self.troubles.meet(name)

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
        self._judge(SLOW_EVENTS, seconds > SLOW_EVENT_S)
        self._visible.append(seconds)

    def take_durations(self) -> list[tuple[str, float]]:
        """(route, seconds) of what was answered since the last call."""
        return _taken(self._durations)

    def take_visible(self) -> list[float]:
        """Seconds of what was committed since the last call."""
        return _taken(self._visible)


def _taken(waiting: deque[T]) -> list[T]:
    return [waiting.popleft() for _ in range(len(waiting))]
