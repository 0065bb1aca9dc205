"""Items that the same users take: co-occurrence, its cosine, and two kNN models on it.

Shapes: U users, I items, H events of a history.
"""

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.interactions import Ints
from infra.evaluation.log import Log
from infra.evaluation.rankers.every import Every
from infra.evaluation.task import Floats, Lesson, Question

MOST_ITEMS = 20_000
"""The matrix is dense: 1.6 GB at most."""


class Cooccurrence:
    """How many users took both items, (I, I), kept up to date as lessons grow. Exact."""

    def __init__(self) -> None:
        self.counts_II = np.zeros((0, 0), np.float32)
        self._known = np.zeros(0, np.int64)

    def learn(self, log: Log, rows: Ints) -> None:
        """Take in these events; only the new ones where the others were taken in before.

        Raises ValueError for more than MOST_ITEMS items.
        """
        events = log.interactions
        if events.item_count > MOST_ITEMS:
            raise ValueError(f"{events.item_count} items, this model takes at most {MOST_ITEMS}")
        old = len(self._known)
        fresh = rows[old:]
        if old and len(fresh) < len(rows) // 4 and np.array_equal(rows[:old], self._known):
            for row in fresh.tolist():
                self._add(int(events.items_E[row]), log.history(int(events.users_E[row]), row))
        else:
            seen_UI = np.zeros((events.user_count, events.item_count), np.float32)
            seen_UI[events.users_E[rows], events.items_E[rows]] = 1
            self.counts_II = seen_UI.T @ seen_UI
        self._known = rows
        self._items_E = events.items_E

    def _add(self, item: int, history: Ints) -> None:
        earlier = self._items_E[history]
        self.counts_II[item, earlier] += 1
        self.counts_II[earlier, item] += 1
        self.counts_II[item, item] += 1

    def cosine(self) -> NDArray[np.float32]:
        """Counts over the root of both items' users; 0 on the diagonal."""
        users_I = np.maximum(np.diag(self.counts_II), 1)
        scale_I = (1 / np.sqrt(users_I)).astype(np.float32)
        cosine_II: NDArray[np.float32] = self.counts_II * scale_I
        cosine_II *= scale_I[:, None]
        np.fill_diagonal(cosine_II, 0)
        return cosine_II


class SequentialKNN:
    """Cosine to the last items of the history, weighted decay ** position, the newest first."""

    def __init__(self, decay: float, last: int) -> None:
        self._decay, self._last = decay, last
        self._counts = Cooccurrence()
        self._cosine_II = np.zeros((0, 0), np.float32)

    def fit(self, log: Log, lesson: Lesson) -> None:
        self._counts.learn(log, lesson.rows)
        self._cosine_II = self._counts.cosine()

    def scores(self, log: Log, question: Question) -> Floats:
        recent = log.interactions.items_E[question.history[-self._last :]][::-1]
        weights_H = (self._decay ** np.arange(len(recent))).astype(np.float32)
        scores_I: Floats = weights_H @ self._cosine_II[recent]
        return scores_I


class ItemKNN:
    """The classic (Sarwar et al. 2001): of each item the `k` nearest, summed over the history.
    Learned anew every `days`: to find the nearest of all takes longer than to count."""

    def __init__(self, k: int, days: int = 7) -> None:
        self._k, self._every = k, Every(days)
        self._counts = Cooccurrence()
        self._cosine_II = np.zeros((0, 0), np.float32)

    def fit(self, log: Log, lesson: Lesson) -> None:
        if not self._every.is_due(log, lesson):
            return
        self._counts.learn(log, lesson.rows)
        cosine_II = self._counts.cosine()
        k = min(self._k, len(cosine_II))
        bounds_I = np.partition(cosine_II, len(cosine_II) - k, axis=1)[:, len(cosine_II) - k]
        self._cosine_II = np.where(cosine_II >= bounds_I[:, None], cosine_II, np.float32(0))

    def scores(self, log: Log, question: Question) -> Floats:
        items = log.interactions.items_E[question.history]
        scores_I: Floats = self._cosine_II[items].sum(axis=0)
        return scores_I
