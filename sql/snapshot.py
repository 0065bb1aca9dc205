"""The one read of a recommendation: pointer, user, session, tail of the log, catalog head.

All of one moment, so that an answer is of one generation and of all that was acknowledged before.

A base (a session at `s`) is valid at `n` if and only if no event in (s, n] has `undoes_seq` <= s
and retention has taken nothing since it was folded (its `trimmed_seq` is the user's): otherwise the
state at `s` holds something that no longer counts, and is folded again from an older base or from
nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, bindparam, case, func, select

from sql.event import TEXT_KINDS, StoredEvent
from sql.history import USER_COLUMNS, UserRow, read_tail, read_text_vectors
from sql.live import LIVE_COLUMNS, LivePointer
from sql.quick_snapshot import Read, read_quickly
from sql.sessions import SessionRow, read_session
from sql.tables import catalog_head, events, live, sessions, users
from sql.transactions import read_snapshot

MAX_TAIL = 2_000

Base = Literal["cached", "session", "none"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a recommendation is made of.

    `base` says on what `tail` is to be folded: `cached` (the state that the caller holds for this
    user and generation, at the `user_seq` it named), `session` (the row in `session`), or `none`
    (nothing: the tail begins with the user's first event). `session` is set only where it is the
    base. `tail_truncated`: events follow the tail; `undone_later` are those of the tail that one of
    them undoes: leave them out, and the fold of the tail can be continued with what follows.
    `text_vectors`: `user_seq` -> (dim,) of the tail's searches and comments that have a vector of
    the chosen generation's encoder; those that have none are to be embedded.
    """

    live: LivePointer | None
    generation_id: str | None
    user: UserRow | None
    base: Base
    base_seq: int
    session: SessionRow | None
    tail: list[StoredEvent]
    tail_truncated: bool
    undone_later: frozenset[int]
    text_vectors: dict[int, NDArray[np.float32]]
    catalog_seq: int
    policy_seq: int


def read_recommendation(
    engine: Engine,
    user_id: str | None,
    loaded: Sequence[str],
    encoder_of: Mapping[str, str],
    cached: Mapping[str, tuple[int, int, int]] | None = None,
    max_tail: int = MAX_TAIL,
) -> Snapshot:
    """Read everything in one transaction.

    `loaded`: the generations that the caller holds, newest first; the live one is chosen where it
    is among them, else the first, else none. `encoder_of`: generation -> encoder id. `cached`:
    generation -> (user_key, user_seq, trimmed_seq) of the state that the caller holds for this
    user; it is used where the key is this user's (an erased user who came back has another) and the
    state is valid.
    Of the cached state and the stored session, the newest that is valid is the base;
    `Snapshot.base` tells which, and only the stored session's bytes are ever read.
    """
    if user_id is not None:
        usual = read_usual(engine, user_id, loaded, cached, max_tail)
        if usual is not None:
            return usual
    return read_whole(engine, user_id, loaded, encoder_of, cached, max_tail)


def read_usual(
    engine: Engine,
    user_id: str,
    loaded: Sequence[str],
    cached: Mapping[str, tuple[int, int, int]] | None = None,
    max_tail: int = MAX_TAIL,
) -> Snapshot | None:
    """`read_recommendation` of a user whose session holds, with fewer than `max_tail` events after
    it, none with a text: two short statements. None of any other user."""
    quick = read_quickly(engine, user_id, loaded, cached or {}, max_tail)
    return None if quick is None else _of_quick(quick)


def read_whole(
    engine: Engine,
    user_id: str | None,
    loaded: Sequence[str],
    encoder_of: Mapping[str, str],
    cached: Mapping[str, tuple[int, int, int]] | None = None,
    max_tail: int = MAX_TAIL,
) -> Snapshot:
    """`read_recommendation` of any user, whatever there is to read."""
    with read_snapshot(engine) as conn:
        pointer, catalog_seq, user, policy_seq = _read_head(conn, user_id)
        chosen = _choose(pointer, loaded)
        if user is None:
            return Snapshot(
                live=pointer,
                generation_id=chosen,
                user=None,
                base="none",
                base_seq=0,
                session=None,
                tail=[],
                tail_truncated=False,
                undone_later=frozenset(),
                text_vectors={},
                catalog_seq=catalog_seq,
                policy_seq=policy_seq,
            )
        candidates = _candidates(conn, chosen, user, (cached or {}).get(chosen)) if chosen else []
        found, tail, truncated = _read_tail(conn, user, candidates, max_tail)
        session = None
        if chosen and found.base == "session":
            session = (
                SessionRow(user.user_key, found.user_seq, found.state, user.trimmed_seq)
                if found.state is not None
                else read_session(conn, chosen, user.user_key)
            )
        texts = [event.user_seq for event in tail if event.kind in TEXT_KINDS]
        encoder_id = encoder_of.get(chosen) if chosen else None
        return Snapshot(
            live=pointer,
            generation_id=chosen,
            user=user,
            base=found.base,
            base_seq=found.user_seq,
            session=session,
            tail=tail,
            tail_truncated=truncated,
            undone_later=_undone_later(conn, tail) if truncated else frozenset(),
            text_vectors=(
                read_text_vectors(conn, user.user_key, texts, encoder_id) if encoder_id else {}
            ),
            catalog_seq=catalog_seq,
            policy_seq=policy_seq,
        )


def _of_quick(quick: Read) -> Snapshot:
    """The common case: a session that holds, and a short tail without texts."""
    user, session = quick.user, None
    if quick.state is not None:
        session = SessionRow(user.user_key, quick.base_seq, quick.state, user.trimmed_seq)
    return Snapshot(
        live=quick.live,
        generation_id=quick.live.generation_id,
        user=user,
        base="cached" if session is None else "session",
        base_seq=quick.base_seq,
        session=session,
        tail=quick.tail,
        tail_truncated=False,
        undone_later=frozenset(),
        text_vectors={},
        catalog_seq=quick.catalog_seq,
        policy_seq=quick.policy_seq,
    )


_HEAD = (
    select(
        catalog_head.c.change_seq,
        *USER_COLUMNS,
        *LIVE_COLUMNS,
        catalog_head.c.policy_seq,
    )
    .select_from(catalog_head)
    .outerjoin(users, users.c.user_id == bindparam("user_id"))
    .outerjoin(live, live.c.flip == select(func.max(live.c.flip)).scalar_subquery())
)


def _read_head(
    conn: Connection, user_id: str | None
) -> tuple[LivePointer | None, int, UserRow | None, int]:
    row = conn.execute(_HEAD, {"user_id": user_id}).one()
    first = 1 + len(USER_COLUMNS)
    user = UserRow(*row[1:first]) if row[1] is not None else None
    pointer = LivePointer(*row[first:-1]) if row[first] is not None else None
    return pointer, row[0], user, row[-1]


def _choose(pointer: LivePointer | None, loaded: Sequence[str]) -> str | None:
    if pointer is not None and pointer.generation_id in loaded:
        return pointer.generation_id
    return loaded[0] if loaded else None


class _Candidate(NamedTuple):
    """A base that may hold. `state` None: not read, because the caller's is as new or newer."""

    base: Base
    user_seq: int
    state: bytes | None


_NOTHING = _Candidate("none", 0, None)

_SESSION = select(
    sessions.c.user_seq,
    # The state is some kilobytes; where the caller's is as new, it stays where it is.
    case((sessions.c.user_seq > bindparam("cached_seq"), sessions.c.state)),
).where(
    sessions.c.generation_id == bindparam("generation_id"),
    sessions.c.user_key == bindparam("user_key"),
    sessions.c.trimmed_seq == bindparam("trimmed_seq"),
)


def _candidates(
    conn: Connection, generation_id: str, user: UserRow, cached: tuple[int, int, int] | None
) -> list[_Candidate]:
    """The newest first. One beyond the log's end (of a database that was restored) never holds, nor
    one from before retention took something."""
    found: list[_Candidate] = []
    is_current = cached and (cached[0], cached[2]) == (user.user_key, user.trimmed_seq)
    if cached and is_current and 0 < cached[1] <= user.last_user_seq:
        found.append(_Candidate("cached", cached[1], None))
    parameters = {
        "generation_id": generation_id,
        "user_key": user.user_key,
        "trimmed_seq": user.trimmed_seq,
        "cached_seq": found[0].user_seq if found else -1,
    }
    row = conn.execute(_SESSION, parameters).first()
    if row and row[0] <= user.last_user_seq:
        found.insert(0 if row[1] is not None else 1, _Candidate("session", row[0], row[1]))
    return found


def _read_tail(
    conn: Connection, user: UserRow, candidates: Sequence[_Candidate], max_tail: int
) -> tuple[_Candidate, list[StoredEvent], bool]:
    """The newest base that is valid, what follows it, and whether more follows."""
    for candidate in candidates:
        tail, truncated = _after(conn, user, candidate.user_seq, max_tail)
        reaches = any(e.undoes_seq is not None and e.undoes_seq <= candidate.user_seq for e in tail)
        if not reaches and not (truncated and _undone_from(conn, user, candidate.user_seq)):
            return candidate, tail, truncated
    return _NOTHING, *_after(conn, user, 0, max_tail)


def _after(
    conn: Connection, user: UserRow, user_seq: int, max_tail: int
) -> tuple[list[StoredEvent], bool]:
    if user_seq == user.last_user_seq:
        return [], False
    tail = read_tail(conn, user.user_key, user_seq, max_tail)
    # Fewer than asked for are all there are, also where retention took the newest numbers.
    return tail, len(tail) == max_tail and tail[-1].user_seq < user.last_user_seq


_UNDONE = select(events.c.undoes_seq).where(
    events.c.user_key == bindparam("user_key"),
    events.c.undoes_seq > bindparam("after"),
    events.c.undoes_seq <= bindparam("until"),
    events.c.user_seq > bindparam("until"),
)


def _undone_from(conn: Connection, user: UserRow, user_seq: int) -> bool:
    """Whether any event after `user_seq` undoes one at or before it."""
    parameters = {"user_key": user.user_key, "after": 0, "until": user_seq}
    return conn.execute(_UNDONE.limit(1), parameters).first() is not None


def _undone_later(conn: Connection, tail: Sequence[StoredEvent]) -> frozenset[int]:
    """Which events of the tail are undone by one after it."""
    parameters = {
        "user_key": tail[0].user_key,
        "after": tail[0].user_seq - 1,
        "until": tail[-1].user_seq,
    }
    return frozenset(conn.execute(_UNDONE, parameters).scalars().all())
