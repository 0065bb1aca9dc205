"""What everybody takes, what everybody took lately, and what is new.

I = items.
"""

import math

import numpy as np

from infra.evaluation.interactions import DAY_MS, LONG_AGO_MS
from infra.evaluation.log import Log
from infra.evaluation.task import Floats, Lesson, Question


class Popularity:
    """How often an item occurred in the `days` before the last midnight; infinite: in the lesson.

    Counts are taken each night, whatever the lessons.
    """

    def __init__(self, days: float = math.inf) -> None:
        self._days = days
        self._counts_I = np.zeros(0, np.float32)
        self._held: tuple[int, Floats] | None = None

    def fit(self, log: Log, lesson: Lesson) -> None:
        items = log.interactions.items_E[lesson.rows]
        counts_I = np.bincount(items, minlength=log.interactions.item_count)
        self._counts_I = counts_I.astype(np.float32)
        self._held = None

    def scores(self, log: Log, question: Question) -> Floats:
        if math.isinf(self._days):
            return self._counts_I
        if self._held is None or self._held[0] != question.night_ms:
            first = log.row_at(question.night_ms - round(self._days * DAY_MS))
            counts = log.counts(first, question.night).astype(np.float32)
            self._held = (question.night_ms, counts)
        return self._held[1]


class Newest:
    """Newest published first; at one time in the order of the catalog."""

    def fit(self, log: Log, lesson: Lesson) -> None:
        """Nothing to learn."""

    def scores(self, log: Log, question: Question) -> Floats:
        published = log.interactions.published_ms_I
        assert published is not None, "the registry offers it only where there is a time"
        return np.where(published == LONG_AGO_MS, np.nan, published.astype(np.float64))
