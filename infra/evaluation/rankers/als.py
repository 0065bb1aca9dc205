"""Implicit ALS by the library `implicit` (Hu, Koren, Volinsky 2008).

A user's factors are computed from the history of the question, so that they are as fresh as ours.
"""

import numpy as np
import scipy.sparse

from infra.evaluation.log import Log
from infra.evaluation.rankers.every import Every
from infra.evaluation.task import Floats, Lesson, Question

try:
    from implicit.als import AlternatingLeastSquares
except ImportError:
    AlternatingLeastSquares = None


def is_installed() -> bool:
    """Whether the library is there: `pip install -e '.[evaluation]'`."""
    return AlternatingLeastSquares is not None


class Als:
    """`factors` wide; learned anew every `days`."""

    def __init__(
        self, factors: int, regularization: float, alpha: float, seed: int, days: int = 7
    ) -> None:
        self._options = {
            "factors": factors,
            "regularization": regularization,
            "alpha": alpha,
            "random_state": seed,
            "iterations": 15,
            "num_threads": 1,
            "use_gpu": False,
        }
        self._every = Every(days)

    def fit(self, log: Log, lesson: Lesson) -> None:
        if not self._every.is_due(log, lesson):
            return
        events = log.interactions
        users, items = events.users_E[lesson.rows], events.items_E[lesson.rows]
        self._model = AlternatingLeastSquares(**self._options)
        self._model.fit(
            scipy.sparse.csr_matrix(
                (np.ones(len(users), np.float32), (users, items)),
                shape=(events.user_count, events.item_count),
            ),
            show_progress=False,
        )

    def scores(self, log: Log, question: Question) -> Floats:
        items = log.interactions.items_E[question.history]
        if not len(items):
            return np.zeros(log.interactions.item_count, np.float32)
        row = scipy.sparse.csr_matrix(
            (np.ones(len(items), np.float32), (np.zeros(len(items), np.int64), items)),
            shape=(1, log.interactions.item_count),
        )
        user_F = self._model.recalculate_user(0, row).ravel()
        scores_I: Floats = self._model.item_factors @ user_F
        return scores_I
