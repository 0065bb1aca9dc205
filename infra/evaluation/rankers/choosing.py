"""Options chosen on validation: never on the test. Q questions of the validation, I items."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import numpy as np

from infra.evaluation.log import Log
from infra.evaluation.rankers.popularity import Popularity
from infra.evaluation.task import Floats, Lesson, Question, Ranker, Task
from infra.evaluation.walk import CUTOFF, first_items, listed, score, walk

MOST_QUESTIONS = 1_500
"""Of a validation, evenly spread; enough to tell weights apart."""


class OrPopular:
    """Users without a history are shown what was popular lately: in how many days is chosen."""

    def __init__(self, ranker: Ranker, windows: Sequence[float]) -> None:
        self._ranker, self._windows = ranker, windows
        self._popular = Popularity(windows[0])

    def tune(self, validation: Task) -> None:
        """The ranker's own options, and the window, by users without a history."""
        tune_own(self._ranker, validation)
        gains = np.zeros(len(self._windows))
        for lesson, questions in validation.steps:
            popular = [Popularity(days) for days in self._windows]
            for row, ranker in enumerate(popular):
                ranker.fit(validation.log, lesson)
                for question in questions:
                    if not len(question.history):
                        gains[row] += _gain(ranker.scores(validation.log, question), question)
        self._popular = Popularity(self._windows[int(gains.argmax())])

    @property
    def choice(self) -> str:
        """The ranker's."""
        return str(getattr(self._ranker, "choice", ""))

    @property
    def saved_fit_s(self) -> float:
        """The ranker's."""
        return float(getattr(self._ranker, "saved_fit_s", 0.0))

    def ahead(self, log: Log, questions: Sequence[Question]) -> None:
        """The ranker's."""
        ahead = getattr(self._ranker, "ahead", None)
        if ahead is not None:
            ahead(log, questions)

    def fit(self, log: Log, lesson: Lesson) -> None:
        self._ranker.fit(log, lesson)
        self._popular.fit(log, lesson)

    def scores(self, log: Log, question: Question) -> Floats:
        asked = self._ranker if len(question.history) else self._popular
        return asked.scores(log, question)


class Chosen:
    """The best of several rankers by NDCG on validation; the first where there is none."""

    def __init__(self, options: Mapping[str, Callable[[], Ranker]]) -> None:
        self._options = options
        self.choice = next(iter(options))
        self._ranker = options[self.choice]()

    def tune(self, validation: Task) -> None:
        """Walk the validation once with each."""
        if len(self._options) == 1:
            return
        figures = {
            name: float(walk(validation, make()).ndcg_Q.mean())
            for name, make in self._options.items()
        }
        self.choice = max(figures, key=lambda name: figures[name])
        self._ranker = self._options[self.choice]()

    def fit(self, log: Log, lesson: Lesson) -> None:
        self._ranker.fit(log, lesson)

    def scores(self, log: Log, question: Question) -> Floats:
        return self._ranker.scores(log, question)


class Blend:
    """A ranker plus weight x recent popularity, each divided by its highest score. Window and
    weight are chosen on validation."""

    def __init__(
        self, make: Callable[[], Ranker], windows: Sequence[float], weights: Sequence[float]
    ) -> None:
        self._windows, self._weights = windows, weights
        self._ranker = make()
        self._choose(windows[0], weights[0])

    def _choose(self, days: float, weight: float) -> None:
        self._popular, self._weight = Popularity(days), weight
        own = getattr(self._ranker, "choice", "")
        self.choice = f"{own} + {weight:g} x popularity of {days:g} days".removeprefix(" + ")

    def tune(self, validation: Task) -> None:
        """All windows and weights in one walk."""
        tune_own(self._ranker, validation)
        # A copy: what was fitted here would take the first lesson of the test for learned.
        walked = deepcopy(self._ranker)
        gains = np.zeros((len(self._windows), len(self._weights)))
        step = max(1, validation.steps.count // MOST_QUESTIONS)
        for lesson, questions in validation.steps:
            walked.fit(validation.log, lesson)
            popular = [Popularity(days) for days in self._windows]
            for ranker in popular:
                ranker.fit(validation.log, lesson)
            for question in questions[::step]:
                base_I = _to_one(walked.scores(validation.log, question))
                for row, ranker in enumerate(popular):
                    popular_I = _to_one(ranker.scores(validation.log, question))
                    for column, weight in enumerate(self._weights):
                        gains[row, column] += _gain(base_I + weight * popular_I, question)
        best_window, best_weight = divmod(int(gains.argmax()), len(self._weights))
        self._choose(self._windows[best_window], self._weights[best_weight])

    def fit(self, log: Log, lesson: Lesson) -> None:
        self._ranker.fit(log, lesson)
        self._popular.fit(log, lesson)

    def scores(self, log: Log, question: Question) -> Floats:
        popular_I = _to_one(self._popular.scores(log, question))
        return _to_one(self._ranker.scores(log, question)) + self._weight * popular_I


def tune_own(ranker: Ranker, validation: Task) -> None:
    """Tune it where it has options."""
    tune = getattr(ranker, "tune", None)
    if tune is not None:
        tune(validation)


def _gain(scores_I: Floats, question: Question) -> float:
    listed_I = listed(np.asarray(scores_I), question)
    return score(listed_I, first_items(listed_I, CUTOFF), question.relevant)[0]


def _to_one(scores_I: Floats) -> Floats:
    highest = float(np.nanmax(scores_I, initial=0.0))
    return scores_I / highest if highest > 0 else scores_I
