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
from ray_jobs.ranking.activity import weight_of
from ray_jobs.ranking.candidates import MIN_CANDIDATES
from ray_jobs.ranking.fusion import Evidence, Fusion
from ray_jobs.ranking.lookup import rows_in
from ray_jobs.ranking.neighbours import Neighbours
from ray_jobs.ranking.shown import Shown
from ray_jobs.ranking.sources import RECENT_ITEMS, Pools, candidates
from ray_jobs.ranking.timeline import Timeline

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
    asked_U = np.logical_or.reduceat(asked_E, starts[:-1]) if len(asked_E) else asked_E
    for user in np.flatnonzero(asked_U).tolist():
        rows = np.arange(starts[user], starts[user + 1])
        asked_seqs = set(histories.user_seqs_E[rows[asked_E[rows]]].tolist())
        asked = list(_of_user(user, histories.events_of(user), asked_seqs, ordinals_N))
        questions += drawn(asked, a_user)
    return sorted(drawn(questions, most), key=lambda question: question.at_ms)


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


def drawn(questions: list[Question], most: int) -> list[Question]:
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

    @property
    def span(self) -> int:
        """One more than the largest ordinal."""
        return int(self.ordinals_N[-1]) + 1

    @cached_property
    def live_S(self) -> NDArray[np.bool_]:
        """Which ordinals of the span are in the catalog."""
        live_S = np.zeros(self.span, np.bool_)
        live_S[self.ordinals_N] = True
        return live_S

    def rows_of(self, ordinals: Ints) -> Ints:
        """Row of each ordinal, -1 where it is not in the catalog."""
        return rows_in(self.ordinals_N, ordinals)


def evidence_of(
    model: Model,
    timeline: Timeline,
    pools: Pools,
    session: Session,
    at_ms: int,
    hidden: Ints,
) -> tuple[Ints, Evidence]:
    """The candidates (M,), ascending, that a user has at a moment, and what is known of them.

    `pools`: what `timeline` says of that moment. `hidden`: who may not be shown, ascending.
    """
    newest_first = session.recent[::-1].copy()
    near = model.neighbours.near(newest_first)
    shown = Shown(model.live_S, hidden)
    vector_D = user_vector(model.encoder, session)
    nearest = np.zeros(0, np.int64)
    if vector_D is not None:
        cosines_N = model.vectors_ND @ vector_D
        nearest = np.flatnonzero(rows_in(hidden, model.ordinals_N) < 0)
        if len(nearest) > MIN_CANDIDATES:
            best = np.argpartition(-cosines_N[nearest], MIN_CANDIDATES - 1)[:MIN_CANDIDATES]
            nearest = nearest[best]
        nearest = model.ordinals_N[nearest]
    found = candidates(pools, near, nearest, at_ms, shown)
    rows = model.rows_of(found)
    recent_rows = model.rows_of(newest_first[:RECENT_ITEMS])
    recent_RD = model.vectors_ND[recent_rows[recent_rows >= 0]]
    recent = np.zeros(len(found), np.float32)
    if len(recent_RD):
        recent = model.vectors_ND[rows] @ unit_rows(recent_RD.mean(axis=0))
    return found, Evidence(
        cosines=np.zeros(len(found), np.float32) if vector_D is None else cosines_N[rows],
        activity=timeline.tally.at(found, at_ms),
        published_ms=timeline.published_S[found],
        neighbours=near.at(found),
        history=model.neighbours.whole.says(session.seen, found),
        recent=recent,
    )


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
        """`frozen_at_ms`: what came later is not known, as where lists are made by night only; but
        what the user has seen since is not listed there either, or a repeat would pass for the
        worth of an event."""
        self._model = model
        self._questions = questions
        self._frozen_at_ms = frozen_at_ms
        self._at_E, ordinals_E, weights_E = _activity_of(histories, model.span)
        published_S = np.full(model.span, -1, np.int64)
        published_S[model.ordinals_N] = model.published_N
        start = self._known(questions[0].at_ms) if questions else 0
        self._timeline = Timeline(self._at_E, ordinals_E, weights_E, published_S, start)
        self._sessions: dict[int, tuple[int, Session | None]] = {}
        self._seen: dict[int, tuple[int, Session | None]] = {}
        """As `_sessions`, up to the question itself: of what is not to be listed."""

    def evidence(self) -> Iterator[tuple[Question, Ints, Evidence, float]]:
        """Each question with its candidates (M,) ascending, what is known of them, and the
        activity of the last month."""
        for question in self._questions:
            found, evidence = self._evidence(question, self._session(question))
            yield question, found, evidence, self._timeline.month

    def ranks(self) -> Ints:
        """Rank (Q,) from 0 of each question's item; N where it is no candidate."""
        ranks = [self._rank(question) for question in self._questions]
        return np.array(ranks, np.int64)

    def _rank(self, question: Question) -> int:
        model, session = self._model, self._session(question)
        if model.fusion is None:
            hidden = self._hidden(question, session)
            found = model.ordinals_N[rows_in(hidden, model.ordinals_N) < 0]
            scores = self._cosines(session)[model.rows_of(found)]
        else:
            found, evidence = self._evidence(question, session)
            scores = model.fusion.score(
                *(found, evidence, question.at_ms),
                is_known=session.steps > 0,
                is_quiet=model.fusion.is_quiet(self._timeline.month),
            ).scores
        place = int(np.searchsorted(found, question.ordinal))
        if place == len(found) or found[place] != question.ordinal:
            return len(model.ordinals_N)
        wanted = scores[place]
        return int(np.count_nonzero(scores > wanted) + np.count_nonzero(scores[:place] == wanted))

    def _known(self, at_ms: int) -> int:
        """Number of the first event that is not known at that moment."""
        if self._frozen_at_ms is not None:
            at_ms = min(at_ms, self._frozen_at_ms)
        return int(np.searchsorted(self._at_E, at_ms))

    def _session(self, question: Question) -> Session:
        position = question.position
        if self._frozen_at_ms is not None:
            before = [event.at_ms < self._frozen_at_ms for event in question.events[:position]]
            position = before.index(False) if False in before else position
        return self._folded(self._sessions, question, position)

    def _hidden(self, question: Question, session: Session) -> Ints:
        """What the user has seen, disliked or hidden by now, ascending."""
        if self._frozen_at_ms is not None:
            session = self._folded(self._seen, question, question.position)
        return np.union1d(session.seen, session.excluded)

    def _folded(
        self, sessions: dict[int, tuple[int, Session | None]], question: Question, position: int
    ) -> Session:
        done, base = sessions.get(question.user, (0, None))
        session = fold(self._model.encoder, base, question.events[done : max(done, position)])
        sessions[question.user] = (max(done, position), session)
        return session

    def _cosines(self, session: Session) -> Floats:
        vector_D = user_vector(self._model.encoder, session)
        if vector_D is None:  # a user who was new when all was frozen
            return np.zeros(len(self._model.ordinals_N), np.float32)
        cosines: Floats = self._model.vectors_ND @ vector_D
        return cosines

    def _evidence(self, question: Question, session: Session) -> tuple[Ints, Evidence]:
        at_ms = question.at_ms
        pools = self._timeline.forward(self._known(at_ms), at_ms)
        return evidence_of(
            *(self._model, self._timeline, pools, session, at_ms),
            self._hidden(question, session),
        )


def _activity_of(histories: Histories, span: int) -> tuple[Ints, Ints, Floats]:
    """Times, ordinals and weights of all that counts as activity, by time."""
    counted = histories.effective_E & (histories.ordinals_E != NONE)
    counted &= histories.ordinals_E < span
    weights_E = weights_of(histories.kinds_E)
    rows = np.flatnonzero(counted & (weights_E > 0))
    rows = rows[np.argsort(histories.at_ms_E[rows], kind="stable")]
    return histories.at_ms_E[rows], histories.ordinals_E[rows], weights_E[rows]
