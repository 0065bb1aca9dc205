"""Options chosen on validation: never on the test. Q questions of the validation, I items."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.log import Log
from infra.evaluation.rankers.every import Every
from infra.evaluation.rankers.popularity import Popularity
from infra.evaluation.rankers.taught import at_midnight, taught
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
    """A ranker plus weight x recent popularity, each divided by its highest score.

    Window and weight are chosen on validation, and again every `days`: by the lesson's held-out
    events, of which the ranker has not learned then.
    """

    def __init__(
        self,
        make: Callable[[], Ranker],
        windows: Sequence[float],
        weights: Sequence[float],
        days: int = 7,
    ) -> None:
        self._windows, self._weights, self._every = windows, weights, Every(days)
        self._new = make()
        """Tuned, and never fitted: a fitted one would take the next lesson for learned."""
        self._ranker = deepcopy(self._new)
        self._popular, self._weight = Popularity(windows[0]), weights[0]
        self._is_chosen = False

    @property
    def choice(self) -> str:
        """The ranker's own, and the last window and weight."""
        own = getattr(self._ranker, "choice", "")
        window = f"{self._popular.days:g} days"
        return f"{own} + {self._weight:g} x popularity of {window}".removeprefix(" + ")

    def tune(self, validation: Task) -> None:
        """All windows and weights in one walk."""
        tune_own(self._new, validation)
        self._ranker, walked = deepcopy(self._new), deepcopy(self._new)
        gains = np.zeros((len(self._windows), len(self._weights)))
        step = max(1, validation.steps.count // MOST_QUESTIONS)
        for lesson, questions in validation.steps:
            walked.fit(validation.log, lesson)
            gains += self._gains(walked, validation.log, lesson, questions[::step])
        self._choose(gains)
        self._is_chosen = True

    def fit(self, log: Log, lesson: Lesson) -> None:
        if self._every.is_due(log, lesson):
            if not self._is_chosen:
                self._weigh(log, lesson)
            self._is_chosen = False
        self._ranker.fit(log, lesson)
        self._popular.fit(log, lesson)

    def scores(self, log: Log, question: Question) -> Floats:
        popular_I = _to_one(self._popular.scores(log, question))
        return _to_one(self._ranker.scores(log, question)) + self._weight * popular_I

    def _weigh(self, log: Log, lesson: Lesson) -> None:
        asked = [at_midnight(log, question) for question in taught(log, lesson.held_out)]
        if not asked:
            return
        nothing = lesson.held_out[:0]
        learned = Lesson(lesson.at_ms, np.setdiff1d(lesson.rows, lesson.held_out), nothing)
        ranker = deepcopy(self._new)
        ranker.fit(log, learned)
        self._choose(self._gains(ranker, log, learned, asked[:: -(-len(asked) // MOST_QUESTIONS)]))

    def _gains(
        self, ranker: Ranker, log: Log, lesson: Lesson, questions: Sequence[Question]
    ) -> NDArray[np.float64]:
        """Sums of NDCG, (windows, weights)."""
        gains = np.zeros((len(self._windows), len(self._weights)))
        popular = [Popularity(days) for days in self._windows]
        for each in popular:
            each.fit(log, lesson)
        for question in questions:
            base_I = _to_one(ranker.scores(log, question))
            for row, each in enumerate(popular):
                popular_I = _to_one(each.scores(log, question))
                for column, weight in enumerate(self._weights):
                    gains[row, column] += _gain(base_I + weight * popular_I, question)
        return gains

    def _choose(self, gains: NDArray[np.float64]) -> None:
        window, weight = divmod(int(gains.argmax()), len(self._weights))
        self._popular, self._weight = Popularity(self._windows[window]), self._weights[weight]


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
