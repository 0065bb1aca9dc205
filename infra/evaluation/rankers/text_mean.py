"""The mean BERT vector of the last items: no learning at all. I items, T text_dim."""

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.log import Log
from infra.evaluation.task import Floats, Lesson, Question

LAST = 5


class TextMean:
    """Cosine of each item's text to the mean of the last five."""

    def __init__(self, bert_IT: NDArray[np.float32]) -> None:
        norms_I1 = np.linalg.norm(bert_IT, axis=1, keepdims=True)
        self._unit_IT = bert_IT / np.maximum(norms_I1, 1e-12)

    def fit(self, log: Log, lesson: Lesson) -> None:
        """Nothing to learn."""

    def scores(self, log: Log, question: Question) -> Floats:
        items = log.interactions.items_E[question.history[-LAST:]]
        if not len(items):
            return np.zeros(len(self._unit_IT), np.float32)
        scores_I: Floats = self._unit_IT @ self._unit_IT[items].mean(axis=0)
        return scores_I
