"""EASE: a linear autoencoder in closed form (Steck, "Embarrassingly Shallow Autoencoders for Sparse
Data", WWW 2019). The inverse costs I ** 3, so it is learned anew only every so many days.

I = items.
"""

import numpy as np

from infra.evaluation.log import Log
from infra.evaluation.rankers.every import Every
from infra.evaluation.rankers.neighbours import Cooccurrence
from infra.evaluation.task import Floats, Lesson, Question
from ray_jobs.ranking.linear import inverse_of


class Ease:
    """`ridge` is the paper's lambda."""

    def __init__(self, ridge: float, days: int = 7) -> None:
        self._ridge, self._every = ridge, Every(days)
        self._counts = Cooccurrence()
        self._weights_II = np.zeros((0, 0), np.float32)

    def fit(self, log: Log, lesson: Lesson) -> None:
        if not self._every.is_due(log, lesson):
            return
        self._counts.learn(log, lesson.rows)
        counts_II = self._counts.counts_II
        taken = np.flatnonzero(np.diag(counts_II) > 0)  # the others' weights are 0
        gram = counts_II[np.ix_(taken, taken)]
        gram[np.diag_indices_from(gram)] += np.float32(self._ridge)
        inverse = inverse_of(gram)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        self._weights_II = np.zeros_like(counts_II)
        self._weights_II[np.ix_(taken, taken)] = weights

    def scores(self, log: Log, question: Question) -> Floats:
        items = log.interactions.items_E[question.history]
        scores_I: Floats = self._weights_II[items].sum(axis=0)
        return scores_I
