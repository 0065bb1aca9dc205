"""The log walked through in time: each question with what was known before it, as by day.

A question is an event of the log: what would have been listed a moment before? The night asks it
twice: of the validation events, to learn how to weigh what is known (`fuse`), and of the holdout,
to compare the candidate with what is live (`evaluate`). The parts are those that the day runs; only
the nearest items are found exactly here, by one product with all item vectors.

Shapes: N items (by ordinal, ascending), E events, D dim, H horizons, M candidates, F features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.config import SEEN_KINDS
from ray_jobs.encoders.fold import FoldEvent, effective, fold, user_vector
from ray_jobs.encoders.session import Session
from ray_jobs.encoders.user_encoder import UserEncoder, unit_rows
from ray_jobs.nightly.histories import NONE, Histories
from ray_jobs.ranking.activity import Tally, weight_of
from ray_jobs.ranking.candidates import MIN_CANDIDATES
from ray_jobs.ranking.fusion import Evidence, Fusion
from ray_jobs.ranking.neighbours import Neighbours
from ray_jobs.ranking.sources import (
    POOL,
    RECENT_ITEMS,
    Pools,
    at_rows,
    candidates_beside,
    most_active,
)
from ray_jobs.ranking.trend import HOUR_MS

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
SEED = 0


@dataclass(frozen=True)
class Question:
    """What a user did before an event, and the item it was about."""

    user: int
    """Number of the user, ascending by user_key."""
    events: list[FoldEvent]
    """The user's effective events, shared by all questions about the user."""
    position: int
    """The list is asked for before `events[position]`: what happened at one time is one moment."""
    ordinal: int
    at_ms: int


def questions_of(
    histories: Histories, asked_E: NDArray[np.bool_], ordinals_N: Ints, *, a_user: int, most: int
) -> list[Question]:
    """The questions among the events `asked_E`, in order of time.

    First sights of an item of the catalog by users with a history; of each user at most `a_user`,
    of all at most `most`, drawn evenly.
    """
    questions: list[Question] = []
    starts = histories.offsets_U1
    for user, (_, events) in enumerate(histories.users()):
        if not asked_E[starts[user] : starts[user + 1]].any():
            continue
        rows = np.arange(starts[user], starts[user + 1])
        asked_seqs = set(histories.user_seqs_E[rows[asked_E[rows]]].tolist())
        asked = list(_of_user(user, events, asked_seqs, ordinals_N))
        questions += _some(asked, a_user)
    return sorted(_some(questions, most), key=lambda question: question.at_ms)


def _of_user(
    user: int, events: list[FoldEvent], asked_seqs: set[int], ordinals_N: Ints
) -> Iterator[Question]:
    # What is taken back is left out here, so no event need say any more what it took back.
    counted = [replace(event, undoes_seq=None) for event in effective(events)]
    known = [NONE if event.ordinal is None else event.ordinal for event in counted]
    in_catalog = np.isin(np.array(known, np.int64), ordinals_N)
    # Where all of it has one time, that says nothing: then log order does.
    is_told = len({event.at_ms for event in counted}) > 1
    seen: set[int] = set()
    moment = 0
    for position, event in enumerate(counted):
        if event.at_ms != counted[moment].at_ms or not is_told:
            moment = position
        if not in_catalog[position] or event.ordinal is None:
            continue
        is_new = event.kind in SEEN_KINDS and event.ordinal not in seen
        if is_new and moment and event.user_seq in asked_seqs:
            yield Question(user, counted, moment, event.ordinal, event.at_ms)
        seen.add(event.ordinal)


def _some(questions: list[Question], most: int) -> list[Question]:
    """At most so many, drawn evenly, in their order."""
    if len(questions) <= most:
        return questions
    kept = np.random.default_rng(SEED).choice(len(questions), most, replace=False)
    return [questions[index] for index in np.sort(kept)]


def weights_of(kinds_E: NDArray[np.str_]) -> Floats:
    """What events of these kinds count as activity, (E,)."""
    kinds, rows_E = np.unique(kinds_E, return_inverse=True)
    weights: Floats = np.array([weight_of(str(kind)) for kind in kinds], np.float32)[rows_E]
    return weights


class Clock:
    """What everybody did before a moment; it only moves forward."""

    def __init__(self, histories: Histories, span: int, from_ms: int) -> None:
        """`span`: one more than the largest ordinal. `from_ms`: no question is earlier."""
        at_E = histories.at_ms_E
        counted = histories.effective_E & (histories.ordinals_E != NONE)
        counted &= histories.ordinals_E < span
        weights_E = weights_of(histories.kinds_E)
        rows = np.flatnonzero(counted & (weights_E > 0))
        rows = rows[np.argsort(at_E[rows], kind="stable")]
        self._at, self._ordinals = at_E[rows], histories.ordinals_E[rows]
        self._weights = weights_E[rows]
        self._next = int(np.searchsorted(self._at, from_ms))
        before = slice(0, self._next)
        self.tally = Tally.of_events(
            span, self._ordinals[before], self._at[before], self._weights[before], from_ms
        )

    def forward(self, until_ms: int) -> Ints:
        """Count what came before `until_ms`; the ordinals of what is new."""
        first, end = self._next, max(self._next, int(np.searchsorted(self._at, until_ms)))
        for row in range(first, end):
            self.tally.add(int(self._ordinals[row]), int(self._at[row]), float(self._weights[row]))
        self._next = end
        return np.unique(self._ordinals[first:end])


@dataclass(frozen=True)
class Model:
    """What answers: the files of one generation. `vectors_ND` of the items `ordinals_N`;
    `published_N` -1 where nobody says. Without `fusion` it ranks by cosine alone."""

    encoder: UserEncoder
    ordinals_N: Ints
    vectors_ND: Floats
    published_N: Ints
    neighbours: Neighbours
    fusion: Fusion | None

    @cached_property
    def by_date(self) -> Ints:
        """Rows, oldest first; those of unknown date first of all."""
        return np.argsort(self.published_N, kind="stable")

    def rows_of(self, ordinals: Ints) -> Ints:
        """Row of each ordinal, -1 where it is not in the catalog."""
        rows = np.minimum(np.searchsorted(self.ordinals_N, ordinals), len(self.ordinals_N) - 1)
        return np.where(self.ordinals_N[rows] == ordinals, rows, -1)


class Replay:
    """Answers questions in order of time."""

    def __init__(
        self,
        model: Model,
        histories: Histories,
        questions: Sequence[Question],
        *,
        frozen_at_ms: int | None = None,
    ) -> None:
        """`frozen_at_ms`: what came later is not known, as where lists are made by night only."""
        self._model = model
        self._questions = questions
        self._frozen_at_ms = frozen_at_ms
        first_ms = questions[0].at_ms if questions else 0
        start_ms = first_ms if frozen_at_ms is None else min(first_ms, frozen_at_ms)
        self._clock = Clock(histories, int(model.ordinals_N[-1]) + 1, start_ms)
        self._sessions: dict[int, tuple[int, Session | None]] = {}
        self._pool: Ints = np.zeros(0, np.int64)
        self._pool_hour = -1
        self._month = 0.0

    def evidence(self) -> Iterator[tuple[Question, Ints, Evidence, float]]:
        """Each question with its candidates (M,) ascending, what is known of them, and the
        activity of the last month."""
        for question in self._questions:
            found, evidence = self._evidence(question, self._session(question))
            yield question, found, evidence, self._month

    def ranks(self) -> Ints:
        """Rank (Q,) from 0 of each question's item; N where it is no candidate."""
        ranks = [self._rank(question) for question in self._questions]
        return np.array(ranks, np.int64)

    def _rank(self, question: Question) -> int:
        model, session = self._model, self._session(question)
        if model.fusion is None:
            scores, found = self._cosines(session), model.ordinals_N
            shown = self._allowed(session, found)
            scores, found = scores[shown], found[shown]
        else:
            found, evidence = self._evidence(question, session)
            is_quiet = model.fusion.is_quiet(self._month)
            scores = model.fusion.score(
                *(found, evidence, question.at_ms),
                is_known=session.steps > 0,
                is_quiet=is_quiet,
            ).scores
        place = int(np.searchsorted(found, question.ordinal))
        if place == len(found) or found[place] != question.ordinal:
            return len(model.ordinals_N)
        wanted = scores[place]
        return int(np.count_nonzero(scores > wanted) + np.count_nonzero(scores[:place] == wanted))

    def _session(self, question: Question) -> Session:
        done, base = self._sessions.get(question.user, (0, None))
        position = question.position
        if self._frozen_at_ms is not None:
            before = [event.at_ms < self._frozen_at_ms for event in question.events[:position]]
            position = before.index(False) if False in before else position
        session = fold(self._model.encoder, base, question.events[done : max(done, position)])
        self._sessions[question.user] = (max(done, position), session)
        return session

    def _cosines(self, session: Session) -> Floats:
        vector_D = user_vector(self._model.encoder, session)
        if vector_D is None:  # a user who was new when all was frozen
            return np.zeros(len(self._model.ordinals_N), np.float32)
        cosines: Floats = self._model.vectors_ND @ vector_D
        return cosines

    def _allowed(self, session: Session, ordinals: Ints) -> NDArray[np.bool_]:
        in_catalog = self._model.rows_of(ordinals) >= 0
        hidden = np.isin(ordinals, session.seen) | np.isin(ordinals, session.excluded)
        allowed: NDArray[np.bool_] = in_catalog & ~hidden
        return allowed

    def _evidence(self, question: Question, session: Session) -> tuple[Ints, Evidence]:
        model, at_ms = self._model, question.at_ms
        cosines_N = self._cosines(session)
        newest_first = session.recent[::-1]
        near_N, near_ND = model.neighbours.near(newest_first)
        beside = candidates_beside(
            self._pools(at_ms), near_N, near_ND, at_ms, lambda of: self._allowed(session, of)
        )
        shown = np.flatnonzero(self._allowed(session, model.ordinals_N))
        nearest = shown
        if len(shown) > MIN_CANDIDATES:
            best = np.argpartition(-cosines_N[shown], MIN_CANDIDATES - 1)[:MIN_CANDIDATES]
            nearest = shown[best]
        found = np.union1d(beside, model.ordinals_N[nearest])
        rows = model.rows_of(found)
        recent_rows = model.rows_of(newest_first[:RECENT_ITEMS])
        vectors_RD = model.vectors_ND[recent_rows[recent_rows >= 0]]
        recent = np.zeros(len(found), np.float32)
        if len(vectors_RD):
            recent = model.vectors_ND[rows] @ unit_rows(vectors_RD.mean(axis=0))
        return found, Evidence(
            cosines=cosines_N[rows],
            activity=self._clock.tally.at(found, at_ms),
            published_ms=model.published_N[rows],
            neighbours=at_rows(near_N, near_ND, found),
            recent=recent,
        )

    def _pools(self, at_ms: int) -> Pools:
        """The most active of all are looked for once an hour; what was acted on since is added."""
        model, new = self._model, self._clock.forward(min(at_ms, self._frozen_at_ms or at_ms))
        if at_ms // HOUR_MS != self._pool_hour:
            self._pool_hour = at_ms // HOUR_MS
            sums_NH = self._clock.tally.at(model.ordinals_N, at_ms)
            self._pool = most_active(model.ordinals_N, sums_NH, POOL)
            self._month = self._clock.tally.month(at_ms)
        else:
            self._pool = np.union1d(self._pool, new)
        published = model.published_N[model.by_date]
        end = int(np.searchsorted(published, at_ms, side="right"))
        newest = model.by_date[max(0, end - POOL) : end]
        return Pools(
            self._pool,
            self._clock.tally.at(self._pool, at_ms),
            model.ordinals_N[newest],
            model.published_N[newest],
        )
