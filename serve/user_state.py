"""A user's state for one answer: one snapshot read, the tail folded, one generation.

one transaction {live pointer, session, tail of the log, head of the catalog log}
  -> the generation to answer from, caught up with the catalog
  -> base session (cached, stored, or none) + fold of the tail
  -> user vector
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from ray_jobs.encoders.errors import SessionError
from ray_jobs.encoders.fold import FoldEvent, fold, user_vector
from ray_jobs.encoders.logged import fold_events
from ray_jobs.encoders.session import Session
from ray_jobs.shards.reader import Shards
from serve.generation_watch import GenerationWatch
from serve.loaded_generation import CatalogView, LoadedGeneration
from serve.problems import unavailable
from serve.session_cache import CachedSession, SessionCache
from serve.write_behind import WriteBehind
from sql.engine import read_snapshot
from sql.errors import StoreBusy, StoreUnavailable
from sql.events import TEXT_KINDS, StoredEvent, UserRow, read_tail, read_text_vectors
from sql.sessions import SessionRow
from sql.snapshot import Snapshot, read_recommendation, read_usual

log = logging.getLogger(__name__)

TextVectors = Mapping[int, NDArray[np.float32]]
"""`user_seq` of a search or comment -> its BERT vector (text_dim,)."""

SHARD_GONE = "shard_gone"
"""The mark of a list that was made without some shards."""

ITEMS_NOT_EMBEDDED = "items_not_embedded"
"""The mark while there are items that no vector finds: the generation's BERT has not read them."""

FUSION_OLDER = "fusion_older"
"""The mark of lists by cosine alone: the generation's fusion is of a version that is not read."""

MAX_HISTORY = 100_000
"""Events folded from nothing for one answer (some 2 s); past it, `user_behind`."""


AT_ONCE_TAIL = 50
"""Events to be folded, at most, where a state is read on the event loop: some 15 us each."""

AT_ONCE_SEEN = 5_000
"""Items that the user has seen, at most: a search fetches as many more."""


class ShardsAnswered(TypedDict):
    """3 of 4, and the numbers of those that did not."""

    answered: int
    of: int
    missing: list[int]


@dataclass(frozen=True)
class UserState:
    """What an answer is made from. All of it is of one generation and one snapshot."""

    generation: LoadedGeneration
    view: CatalogView
    user: UserRow | None
    session: Session | None
    user_seq: int
    shards: Shards
    """The generation's, for this one answer: they have its deadline, and say which were missing."""
    marks: tuple[str, ...]
    policy_seq: int = 0
    """Policies are those of this change or of a newer one."""
    unembedded: tuple[StoredEvent, ...] = ()
    """Searches and comments that BERT has not read yet; they were folded as unknown."""
    as_of_ms: int | None = None
    """Without the database: what was acknowledged before is reflected, later changes may not be."""

    @property
    def catalog_seq(self) -> int:
        """Every item change up to this one is reflected."""
        return self.view.catalog_seq

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why an answer made of this is less, up to now: a search may find a shard gone."""
        reasons = {
            ITEMS_NOT_EMBEDDED: bool(self.view.unembedded),
            FUSION_OLDER: self.generation.is_of_older_fusion,
            SHARD_GONE: bool(self.shards.missing),
        }
        return (*self.marks, *(reason for reason, is_so in reasons.items() if is_so))

    @property
    def shards_answered(self) -> ShardsAnswered | None:
        """How many shards the answer is made of; None where it is all of them."""
        missing, of = list(self.shards.missing), self.shards.shard_count
        return {"answered": of - len(missing), "of": of, "missing": missing} if missing else None

    @property
    def vector(self) -> NDArray[np.float32] | None:
        """The unit user vector (dim,), None for a user of whom nothing was folded."""
        return None if self.session is None else user_vector(self.generation.encoder, self.session)

    @property
    def excluded(self) -> NDArray[np.int64]:
        """Ordinals the user disliked or hid, ascending; also of ids put again since."""
        excluded = np.zeros(0, np.int64) if self.session is None else self.session.excluded
        return self.view.items.with_returned(excluded)


@dataclass(frozen=True, slots=True)
class _Head:
    """What the last read of the database said."""

    generation_id: str
    policy_seq: int
    read_at_ms: int


class UserStates:
    """Reads users' states. Thread-safe; one call is one snapshot."""

    def __init__(
        self,
        engine: Engine,
        watch: GenerationWatch[LoadedGeneration],
        cache: SessionCache,
        write_behind: WriteBehind,
        *,
        write_back_after: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._watch = watch
        self._cache = cache
        self._write_behind = write_behind
        self._write_back_after = write_back_after
        self._now_ms = now_ms
        self._head: _Head | None = None

    @property
    def can_answer(self) -> bool:
        """Whether a generation is loaded."""
        return bool(self._watch.loaded)

    def read(self, user_id: str | None) -> UserState:
        """The state of `user_id` (None: of nobody, for lists that need only the catalog).

        While the database does not answer: what this replica holds of the user, marked.

        Raises:
            ProblemError: 503 while no generation is loaded, or nothing is held.
        """
        loaded = self._watch.loaded
        if not loaded:
            raise unavailable(
                "no generation is live",
                "this replica has nothing to recommend from",
                "run `moonlark night`, then look at `moonlark status`",
                retry_after_s=5,
            )
        try:
            return self._read(user_id, loaded)
        except StoreBusy:  # it is there: nobody shall be shown an old list because many ask
            raise
        except StoreUnavailable as error:
            log.warning("answering from memory: %s", error)
            return self._held(user_id, loaded)

    def read_at_once(self, user_id: str) -> UserState | None:
        """What `read` gives, of a user and a catalog of whom it takes well below a millisecond;
        None of any other, and where the database does not answer: `read` says what there is to say.
        """
        loaded = self._watch.loaded
        read_at_ms = self._now_ms()
        cached = self._cache.of_user(user_id, loaded)
        places = _places(cached)
        try:
            snapshot = read_usual(self._engine, user_id, list(loaded), places, AT_ONCE_TAIL)
        except StoreUnavailable:
            return None
        if snapshot is None or snapshot.generation_id is None:
            return None
        if loaded[snapshot.generation_id].view.catalog_seq < snapshot.catalog_seq:
            return None
        state = self._of_snapshot(snapshot, user_id, loaded, cached, read_at_ms)
        is_short = state.session is not None and len(state.session.seen) <= AT_ONCE_SEEN
        return state if is_short else None

    def _read(self, user_id: str | None, loaded: Mapping[str, LoadedGeneration]) -> UserState:
        read_at_ms = self._now_ms()  # before: what is acknowledged while we read may not be in it
        cached = {} if user_id is None else self._cache.of_user(user_id, loaded)
        snapshot = read_recommendation(
            self._engine,
            user_id,
            list(loaded),
            {g: held.encoder_id for g, held in loaded.items()},
            _places(cached),
        )
        return self._of_snapshot(snapshot, user_id, loaded, cached, read_at_ms)

    def _of_snapshot(
        self,
        snapshot: Snapshot,
        user_id: str | None,
        loaded: Mapping[str, LoadedGeneration],
        cached: dict[str, CachedSession],
        read_at_ms: int,
    ) -> UserState:
        assert snapshot.generation_id is not None, "some generation is loaded"
        generation = loaded[snapshot.generation_id]
        view = generation.catch_up(self._engine, snapshot.catalog_seq)
        degraded: list[str] = []
        unembedded: list[StoredEvent] = []
        if snapshot.live is None or snapshot.live.generation_id != generation.generation_id:
            degraded.append("generation_behind")
        session = self._session(generation, snapshot, cached, degraded, unembedded)
        user = snapshot.user
        self._head = _Head(generation.generation_id, snapshot.policy_seq, read_at_ms)
        if user is not None and session is not None and user_id is not None and not degraded:
            self._cache.put(
                generation.generation_id,
                user_id,
                CachedSession(user.user_key, session, user.trimmed_seq, read_at_ms),
            )
        return UserState(
            generation=generation,
            view=view,
            user=user,
            session=session,
            user_seq=_reflected(user, session, degraded),
            shards=generation.shards.for_answer(),
            marks=tuple(degraded),
            policy_seq=snapshot.policy_seq,
            unembedded=tuple(unembedded),
        )

    def _held(self, user_id: str | None, loaded: Mapping[str, LoadedGeneration]) -> UserState:
        """Of a user who is not held nothing is known, not even what they hid: no list at all."""
        head = self._head
        generation = loaded.get(head.generation_id) if head else None
        cached: CachedSession | None = None
        if generation is not None and user_id is not None:
            held = self._cache.of_user(user_id, [generation.generation_id])
            cached = held.get(generation.generation_id)
        if head is None or generation is None or (user_id is not None and cached is None):
            raise unavailable(
                "the database does not answer",
                "this replica holds nothing of that user",
                "send the same again: another replica may, or the database is back",
            )
        state = UserState(
            generation=generation,
            view=generation.view,
            user=None,
            session=None,
            user_seq=0,
            shards=generation.shards.for_answer(),
            marks=("database_gone",),
            policy_seq=head.policy_seq,
            as_of_ms=head.read_at_ms,
        )
        if cached is None or user_id is None:
            return state
        seq = cached.session.user_seq
        return replace(
            state,
            user=UserRow(user_id, cached.user_key, seq, cached.trimmed_seq),
            session=cached.session,
            user_seq=seq,
            as_of_ms=cached.read_at_ms,
        )

    def of_events(
        self, events: Sequence[StoredEvent], text_vectors: Mapping[str, TextVectors]
    ) -> UserState:
        """The state of someone who is not stored: `events`, a whole log, folded from nothing.

        `text_vectors`: encoder id -> `user_seq` -> vector.
        """
        nobody = self.read(None)
        generation = nobody.generation
        unembedded: list[StoredEvent] = []
        vectors = text_vectors.get(generation.encoder_id, {})
        folded = self._fold_events(generation, events, vectors, unembedded)
        session = fold(generation.encoder, None, folded)
        marks = ("text_not_embedded",) if unembedded else ()
        return replace(
            nobody,
            session=session,
            user_seq=session.user_seq,
            marks=(*nobody.marks, *marks),
        )

    def _session(
        self,
        generation: LoadedGeneration,
        snapshot: Snapshot,
        cached: dict[str, CachedSession],
        degraded: list[str],
        unembedded: list[StoredEvent],
    ) -> Session | None:
        if snapshot.user is None:
            return None
        base, tail = self._base(generation, snapshot, cached), snapshot.tail
        vectors = snapshot.text_vectors
        if snapshot.tail_truncated or (base is None and snapshot.base != "none"):
            base, tail, vectors = self._whole_history(generation, snapshot.user, degraded)
        if not tail:
            return base
        events = self._fold_events(generation, tail, vectors, unembedded)
        if unembedded:
            degraded.append("text_not_embedded")
        session = fold(generation.encoder, base, events)
        if len(tail) > self._write_back_after and not degraded:
            self._write_behind.keep_session(
                generation.generation_id,
                SessionRow(
                    snapshot.user.user_key,
                    session.user_seq,
                    session.to_bytes(),
                    snapshot.user.trimmed_seq,
                ),
            )
        return session

    def _base(
        self,
        generation: LoadedGeneration,
        snapshot: Snapshot,
        cached: dict[str, CachedSession],
    ) -> Session | None:
        """The session that the snapshot says the log still agrees with."""
        if snapshot.base == "cached":
            return cached[generation.generation_id].session
        if snapshot.base == "session" and snapshot.session is not None:
            try:
                session = Session.from_bytes(snapshot.session.state)
                generation.encoder.check_fits(session)
            except SessionError as error:  # a cache: drop it, the log is the truth
                log.error("session of generation %s: %s", generation.generation_id, error)
                return None
            return session
        return None

    def _whole_history(
        self, generation: LoadedGeneration, user: UserRow, degraded: list[str]
    ) -> tuple[None, list[StoredEvent], dict[int, NDArray[np.float32]]]:
        """A tail too long for the snapshot, or a base that would not load: from nothing."""
        with read_snapshot(self._engine) as conn:
            tail = read_tail(conn, user.user_key, 0, MAX_HISTORY)
            seqs = [event.user_seq for event in tail if event.kind in TEXT_KINDS]
            vectors = read_text_vectors(conn, user.user_key, seqs, generation.encoder_id)
        if len(tail) == MAX_HISTORY and tail[-1].user_seq < user.last_user_seq:
            degraded.append("user_behind")
        return None, tail, vectors

    def _fold_events(
        self,
        generation: LoadedGeneration,
        tail: Sequence[StoredEvent],
        text_vectors: TextVectors,
        unembedded: list[StoredEvent],
    ) -> list[FoldEvent]:
        digests = [event.text_digest for event in tail if event.text_digest is not None]
        item_vectors = generation.text_vectors(self._engine, digests)
        events, without_vector = fold_events(tail, text_vectors, item_vectors)
        unembedded += without_vector
        return events


def _places(cached: Mapping[str, CachedSession]) -> dict[str, tuple[int, int, int]]:
    """As the snapshot is told of them."""
    return {g: (c.user_key, c.session.user_seq, c.trimmed_seq) for g, c in cached.items()}


def _reflected(user: UserRow | None, session: Session | None, degraded: Sequence[str]) -> int:
    """The user_seq up to which the log is reflected: all of it, unless the fold is behind. Where
    retention took the newest events, the session ends before the log does."""
    if user is not None and "user_behind" not in degraded:
        return user.last_user_seq
    return 0 if session is None else session.user_seq
