"""Our model as it ships, with re-ranking: candidates of all sources, scored by `fusion`.

A lesson does what the night does: train, count neighbours, and learn the weights of fusion on the
newest events, which the weights of the LSTM have not seen. A question is answered by the night's
own replay (`ray_jobs.nightly.replay.evidence_of`), which runs the shelves of the day.

Shapes: I items, F features of fusion.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.interactions import LONG_AGO_MS, Ints
from infra.evaluation.log import Log
from infra.evaluation.rankers.every import Every
from infra.evaluation.rankers.moonlark import Moonlark
from infra.evaluation.task import Floats, Lesson, Question, Ranker
from ray_jobs.encoders.config import KINDS
from ray_jobs.nightly.replay import Model, evidence_of
from ray_jobs.ranking.activity import weight_of
from ray_jobs.ranking.fusion import Evidence, Fusion
from ray_jobs.ranking.fusion_fit import EVERY_F, fit_fusion
from ray_jobs.ranking.fusion_fit import Question as Taught
from ray_jobs.ranking.neighbours import Neighbours, count_neighbours
from ray_jobs.ranking.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Lessons:
    """What taught a fusion: the same questions, and as if all activity were long ago."""

    lively: list[Taught]
    quiet: list[Taught]
    usual_month: float


QUESTIONS, QUESTIONS_A_USER = 2_000, 20
"""That teach them, as by night: a user's newest ones, drawn evenly where they are more."""


MakeTimeline = Callable[[Ints, Ints, NDArray[np.float32], Ints, int], Timeline]


class Fused:
    """`cosine` gives user and item vectors; `alone` ranks where there are too few questions to
    learn fusion from. Its weights are learned anew every `days`: it takes 20 s. Features that are
    not `used_F` weigh nothing."""

    def __init__(
        self,
        cosine: Moonlark,
        alone: Ranker,
        days: int = 7,
        make_timeline: MakeTimeline = Timeline,
        used_F: NDArray[np.bool_] = EVERY_F,
    ) -> None:
        self._cosine, self._alone, self._make_timeline = cosine, alone, make_timeline
        self._every, self._used_F = Every(days), used_F
        self._fusion: Fusion | None = None
        self._neighbours = Neighbours.nobody()
        self._timeline: Timeline | None = None
        self.lessons = Lessons([], [], 0.0)
        """By which the weights were learned last."""

    @classmethod
    def of(
        cls,
        cosine: Moonlark,
        fusion: Fusion,
        neighbours: Neighbours,
        make_timeline: MakeTimeline = Timeline,
    ) -> "Fused":
        """With what was learned elsewhere: not to be fitted."""
        made = cls(cosine, cosine, make_timeline=make_timeline)
        made._fusion, made._neighbours = fusion, neighbours
        return made

    @property
    def choice(self) -> str:
        """The weights that matter, for the table."""
        if self._fusion is None:
            return "cosine alone: too few questions"
        named = zip(self._fusion.features, self._fusion.lively.known, strict=True)
        return ", ".join(f"{name} {weight:+.2f}" for name, weight in named if abs(weight) > 0.05)

    @property
    def saved_fit_s(self) -> float:
        """Of the training; fusion is learned each time."""
        return self._cosine.saved_fit_s

    def fit(self, log: Log, lesson: Lesson) -> None:
        self._alone.fit(log, lesson)
        self._cosine.fit(log, lesson)
        if self._every.is_due(log, lesson):
            self._learn(log, lesson)
        self._neighbours = _neighbours_of(log, lesson.rows)

    def _learn(self, log: Log, lesson: Lesson) -> None:
        self._neighbours = _neighbours_of(log, np.setdiff1d(lesson.rows, lesson.held_out))
        self._timeline = None
        lively, quiet, months = [], [], []
        for question in _taught(log, lesson.held_out):
            found, evidence, month = self.evidence(log, question)
            (target,) = question.relevant
            place = int(np.searchsorted(found, target))
            if place < len(found) and found[place] == target:
                lively.append(Taught(evidence.features(question.at_ms), place))
                quiet.append(Taught(evidence.features(question.at_ms, quiet=True), place))
                months.append(month)
        self.lessons = Lessons(lively, quiet, float(np.mean(months)) if months else 0.0)
        self._fusion = fit_fusion(lively, quiet, self.lessons.usual_month, self._used_F)
        self._timeline = None  # questions may begin before the last that taught

    def scores(self, log: Log, question: Question) -> Floats:
        """NaN for what is no candidate of any source."""
        if self._fusion is None:
            return self._alone.scores(log, question)
        found, evidence, month = self.evidence(log, question)
        scores_I = np.full(log.interactions.item_count, np.nan)
        scores_I[found] = fused_scores(self._fusion, found, evidence, month, question)
        return scores_I

    def evidence(self, log: Log, question: Question) -> tuple[Ints, Evidence, float]:
        """The candidates, what is known of them, and how much was done in the month before.
        Questions come in order of time."""
        if self._timeline is None:
            self._timeline = self._timeline_at(log, question.known)
        allowed_I = np.ones(log.interactions.item_count, np.bool_)
        allowed_I[question.seen] = False
        if question.candidates is not None:
            allowed_I &= question.candidates
        cosine, at_ms = self._cosine, question.at_ms
        model = Model(
            encoder=cosine.encoder,
            ordinals_N=np.arange(len(allowed_I)),
            vectors_ND=cosine.items_ID,
            published_N=self._timeline.published_S,
            neighbours=self._neighbours,
            fusion=None,
        )
        if question.candidates is not None:  # what is yet to be published is in no catalog
            there = np.flatnonzero(question.candidates)
            model = replace(
                model,
                ordinals_N=there,
                vectors_ND=model.vectors_ND[there],
                published_N=model.published_N[there],
            )
        pools = self._timeline.forward(question.known, at_ms)
        session = cosine.session(log, question)
        found, evidence = evidence_of(
            *(model, self._timeline, pools, session, at_ms), np.flatnonzero(~allowed_I)
        )
        return found, evidence, self._timeline.month

    def _timeline_at(self, log: Log, start: int) -> Timeline:
        """Before event `start`."""
        events = log.interactions
        weights_K = np.array([weight_of(kind) for kind in KINDS], np.float32)
        weights_E = weights_K[events.kinds_E] * log.countable_E
        published = events.published_ms_I
        if published is None:
            published_I = np.full(events.item_count, -1, np.int64)
        else:
            published_I = np.where(published == LONG_AGO_MS, -1, published)
        return self._make_timeline(events.at_ms_E, events.items_E, weights_E, published_I, start)


def fused_scores(
    fusion: Fusion, found: Ints, evidence: Evidence, month: float, question: Question
) -> NDArray[np.float32]:
    """Of the candidates `found`, as by day."""
    is_known = bool(len(question.history))
    is_quiet = fusion.is_quiet(month)
    return fusion.score(
        found, evidence, question.at_ms, is_known=is_known, is_quiet=is_quiet
    ).scores


def _taught(log: Log, rows: Ints) -> list[Question]:
    """Held-out events of users with a history, asked with what came before their moment."""
    events = log.interactions
    rows = log.newest_of_each_user(rows, QUESTIONS_A_USER)
    if len(rows) > QUESTIONS:
        rows = np.sort(np.random.default_rng(0).choice(rows, QUESTIONS, replace=False))
    published = events.published_ms_I
    questions = []
    for row in rows.tolist():
        user, at_ms = int(events.users_E[row]), int(events.at_ms_E[row])
        moment = log.row_at(at_ms)
        history = log.history(user, moment)
        if not len(history):
            continue
        questions.append(
            Question(
                user=user,
                at_ms=at_ms,
                history=history,
                seen=events.items_E[log.history(user, row)],
                known=moment,
                night=moment,
                night_ms=at_ms,
                relevant=events.items_E[row : row + 1],
                candidates=None if published is None else published <= at_ms,
            )
        )
    return questions


def _neighbours_of(log: Log, rows: Ints) -> Neighbours:
    events = log.interactions
    return count_neighbours(events.users_E[rows], events.items_E[rows], events.item_count)
