"""What costs too much to be learned at each lesson is learned every so many days."""

from infra.evaluation.interactions import DAY_MS
from infra.evaluation.log import Log
from infra.evaluation.task import Lesson


class Every:
    """Says when `days` have gone by since the last time it said so, or the log is another one."""

    def __init__(self, days: int) -> None:
        self._days = days
        self._last: tuple[Log, int] | None = None

    def is_due(self, log: Log, lesson: Lesson) -> bool:
        """Whether to learn from this lesson; it then counts as learned."""
        if self._last is not None and self._last[0] is log:
            since_ms = lesson.at_ms - self._last[1]
            if 0 <= since_ms < self._days * DAY_MS:
                return False
        self._last = (log, lesson.at_ms)
        return True
