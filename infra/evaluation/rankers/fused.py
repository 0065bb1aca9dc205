"""Our model as it ships, with re-ranking: candidates of all sources, scored by `fusion`.

A lesson does what the night does: train, count neighbours, and learn the weights of fusion on the
newest events, which the weights of the LSTM have not seen. A question then runs the shelves of
the day: fold, `sources`, `fusion`; only the nearest items are found by one product with all.

Shapes: I items, M candidates, R recent items, F features.
"""

import numpy as np

from infra.evaluation.interactions import LONG_AGO_MS, Ints
from infra.evaluation.log import Log
from infra.evaluation.rankers.every import Every
from infra.evaluation.rankers.moonlark import Moonlark
from infra.evaluation.task import Floats, Lesson, Question, Ranker
from ray_jobs.encoders.config import KINDS
from ray_jobs.encoders.user_encoder import unit_rows
from ray_jobs.ranking.activity import Tally, weight_of
from ray_jobs.ranking.candidates import MIN_CANDIDATES
from ray_jobs.ranking.fusion import Evidence, Fusion
from ray_jobs.ranking.fusion_fit import Question as Taught
from ray_jobs.ranking.fusion_fit import fit_fusion
from ray_jobs.ranking.neighbours import Neighbours, count_neighbours
from ray_jobs.ranking.sources import (
    POOL,
    RECENT_ITEMS,
    Pools,
    at_rows,
    candidates_beside,
    most_active,
)
from ray_jobs.ranking.trend import HOUR_MS

QUESTIONS, QUESTIONS_A_USER = 2_000, 20
"""That teach them, as by night: a user's newest ones, drawn evenly where they are more."""


class Fused:
    """`cosine` gives user and item vectors; `alone` ranks where there are too few questions to
    learn fusion from. Its weights are learned anew every `days`: it takes 20 s."""

    def __init__(self, cosine: Moonlark, alone: Ranker, days: int = 7) -> None:
        self._cosine, self._alone = cosine, alone
        self._every = Every(days)
        self._fusion: Fusion | None = None
        self._neighbours = Neighbours.nobody()
        self._clock: _Clock | None = None

    @property
    def choice(self) -> str:
        """The weights that matter, for the table."""
        if self._fusion is None:
            return "cosine alone: too few questions"
        named = zip(self._fusion.features, self._fusion.lively.known, strict=True)
        return ", ".join(f"{name} {weight:+.2f}" for name, weight in named if abs(weight) > 0.05)

    def fit(self, log: Log, lesson: Lesson) -> None:
        self._alone.fit(log, lesson)
        self._cosine.fit(log, lesson)
        if self._every.is_due(log, lesson):
            self._learn(log, lesson)
        self._neighbours = _neighbours_of(log, lesson.rows)

    def _learn(self, log: Log, lesson: Lesson) -> None:
        self._neighbours = _neighbours_of(log, np.setdiff1d(lesson.rows, lesson.held_out))
        self._clock = None
        lively, quiet, months = [], [], []
        for question in _taught(log, lesson.held_out):
            found, evidence, month = self._evidence(log, question)
            (target,) = question.relevant
            place = int(np.searchsorted(found, target))
            if place < len(found) and found[place] == target:
                lively.append(Taught(evidence.features(question.at_ms), place))
                quiet.append(Taught(evidence.features(question.at_ms, quiet=True), place))
                months.append(month)
        self._fusion = fit_fusion(lively, quiet, float(np.mean(months)) if months else 0.0)
        self._clock = None  # questions may begin before the last that taught

    def scores(self, log: Log, question: Question) -> Floats:
        """NaN for what is no candidate of any source."""
        if self._fusion is None:
            return self._alone.scores(log, question)
        found, evidence, month = self._evidence(log, question)
        fused = self._fusion.score(
            found,
            evidence,
            question.at_ms,
            is_known=bool(len(question.history)),
            is_quiet=self._fusion.is_quiet(month),
        )
        scores_I = np.full(log.interactions.item_count, np.nan)
        scores_I[found] = fused.scores
        return scores_I

    def _evidence(self, log: Log, question: Question) -> tuple[Ints, Evidence, float]:
        if self._clock is None:
            self._clock = _Clock(log, question)
        pools = self._clock.pools(question)
        items_ID, at_ms = self._cosine.items_ID, question.at_ms
        allowed_I = np.ones(len(items_ID), np.bool_)
        allowed_I[question.seen] = False
        if question.candidates is not None:
            allowed_I &= question.candidates
        recent = self._cosine.session(log, question).recent[::-1]
        near_N, near_ND = self._neighbours.near(recent)
        beside = candidates_beside(pools, near_N, near_ND, at_ms, lambda of: allowed_I[of])
        vector_D = self._cosine.vector(log, question)
        if vector_D is None:
            found = beside
            cosines = near_recent = np.zeros(len(found), np.float32)
        else:
            cosines_I = items_ID @ vector_D
            shown = np.flatnonzero(allowed_I)
            if len(shown) > MIN_CANDIDATES:
                best = np.argpartition(-cosines_I[shown], MIN_CANDIDATES - 1)[:MIN_CANDIDATES]
                shown = shown[best]
            found = np.union1d(beside, shown)
            cosines = cosines_I[found]
            near_recent = items_ID[found] @ unit_rows(items_ID[recent[:RECENT_ITEMS]].mean(axis=0))
        evidence = Evidence(
            cosines=cosines,
            activity=self._clock.tally.at(found, at_ms),
            published_ms=self._clock.published_I[found],
            neighbours=at_rows(near_N, near_ND, found),
            recent=near_recent,
        )
        return found, evidence, self._clock.month


class _Clock:
    """Activity up to the events that a question may know; it only moves forward."""

    def __init__(self, log: Log, first: Question) -> None:
        events = log.interactions
        self._log, self._next = log, first.known
        weights_K = np.array([weight_of(kind) for kind in KINDS], np.float32)
        self._weights_E = weights_K[events.kinds_E] * log.countable_E
        self.tally = Tally.of_events(
            events.item_count,
            events.items_E[: first.known],
            events.at_ms_E[: first.known],
            self._weights_E[: first.known],
            int(events.at_ms_E[first.known - 1]),
        )
        published = events.published_ms_I
        self.published_I = (
            np.full(events.item_count, -1, np.int64)
            if published is None
            else np.where(published == LONG_AGO_MS, -1, published)
        )
        self._by_date = np.argsort(self.published_I, kind="stable")
        self._sorted = self.published_I[self._by_date]
        self._pool: Ints = np.zeros(0, np.int64)
        self._pool_hour = -1
        self.month = 0.0
        """Activity of the last month, of all items."""

    def pools(self, question: Question) -> Pools:
        """As by day: the most active are looked for once an hour, what was acted on since added."""
        events, at_ms = self._log.interactions, question.at_ms
        fresh = np.arange(self._next, max(self._next, question.known))
        for row in fresh[self._weights_E[fresh] > 0].tolist():
            item, weight = int(events.items_E[row]), float(self._weights_E[row])
            self.tally.add(item, int(events.at_ms_E[row]), weight)
        self._next = max(self._next, question.known)
        if at_ms // HOUR_MS != self._pool_hour:
            self._pool_hour = at_ms // HOUR_MS
            everything = np.arange(events.item_count)
            self._pool = most_active(everything, self.tally.at(everything, at_ms), POOL)
            self.month = self.tally.month(at_ms)
        else:
            self._pool = np.union1d(self._pool, events.items_E[fresh])
        end = int(np.searchsorted(self._sorted, at_ms, side="right"))
        newest = self._by_date[max(0, end - POOL) : end]
        return Pools(self._pool, self.tally.at(self._pool, at_ms), newest, self.published_I[newest])


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
