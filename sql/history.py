"""Reading the log back: a user, a tail, the vectors of texts, and all of it for the night."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Select, bindparam, exists, select, tuple_

from sql.batch import batch_of, batch_rows, insert_into
from sql.event import EventKind, StoredEvent
from sql.ids import BadInput
from sql.tables import events, text_vectors, users
from sql.transactions import write
from sql.vectors import from_bytes, to_bytes

MAX_TAIL = 100_000
MAX_CHUNK = 100_000


class UserRow(NamedTuple):
    """A user: `user_key` is random and never used again, `last_user_seq` the last number given.

    `trimmed_seq` grows each time that retention takes events of the user.
    """

    user_id: str
    user_key: int
    last_user_seq: int
    trimmed_seq: int = 0


USER_COLUMNS = tuple(users.c[name] for name in UserRow._fields)


EVENT_COLUMNS = tuple(
    events.c[name]
    for name in (
        "user_key",
        "user_seq",
        "event_id",
        "kind",
        "item_id",
        "ordinal",
        "text_digest",
        "text",
        "value",
        "undoes_seq",
        "occurred_at_ms",
        "received_at_ms",
    )
)
_KIND = {str(kind): kind for kind in EventKind}


def to_event(row: Any) -> StoredEvent:
    """A `StoredEvent` of a row of `EVENT_COLUMNS`."""
    return StoredEvent(row[0], row[1], row[2], _KIND[row[3]], *row[4:])


_FIND_USER = select(*USER_COLUMNS).where(users.c.user_id == bindparam("user_id"))


def find_user(conn: Connection, user_id: str) -> UserRow | None:
    """The user of that id, None where there is none (or no longer)."""
    row = conn.execute(_FIND_USER, {"user_id": user_id}).first()
    return UserRow(*row) if row else None


_FIND_USER_BY_KEY = select(users.c.user_id, users.c.user_key, users.c.last_user_seq).where(
    users.c.user_key == bindparam("user_key")
)


def find_user_by_key(conn: Connection, user_key: int) -> UserRow | None:
    """The user of that key, None where they were erased."""
    row = conn.execute(_FIND_USER_BY_KEY, {"user_key": user_key}).first()
    return UserRow(*row) if row else None


def read_contexts(
    conn: Connection, user_key: int, first_seq: int, last_seq: int
) -> dict[int, tuple[str | None, str | None]]:
    """user_seq -> (surface, request_id): what the fold does not read and a user's export shows."""
    rows = conn.execute(
        select(events.c.user_seq, events.c.surface, events.c.request_id).where(
            events.c.user_key == user_key, events.c.user_seq.between(first_seq, last_seq)
        )
    )
    return {row[0]: (row[1], row[2]) for row in rows}


_TAIL = (
    select(*EVENT_COLUMNS)
    .where(events.c.user_key == bindparam("user_key"), events.c.user_seq > bindparam("after_seq"))
    .order_by(events.c.user_seq)
    .limit(bindparam("at_most"))
)


def read_tail(conn: Connection, user_key: int, after_seq: int, limit: int) -> list[StoredEvent]:
    """The first `limit` events of a user after `after_seq`, in log order."""
    if not 0 < limit <= MAX_TAIL:
        raise BadInput("limit", limit, f"1 to {MAX_TAIL}")
    parameters = {"user_key": user_key, "after_seq": after_seq, "at_most": limit}
    return [to_event(row) for row in conn.execute(_TAIL, parameters)]


_later = events.alias("later")
_EFFECTIVE = (
    select(*EVENT_COLUMNS)
    .where(
        events.c.user_key == bindparam("user_key"),
        events.c.user_seq <= bindparam("until_seq"),
        events.c.kind != EventKind.UNDO.value,
        ~exists().where(
            _later.c.user_key == events.c.user_key,
            _later.c.undoes_seq == events.c.user_seq,
            _later.c.user_seq <= bindparam("until_seq"),
        ),
    )
    .order_by(events.c.user_seq.desc())
    .limit(bindparam("at_most"))
)


def read_effective(
    conn: Connection, user_key: int, until_seq: int, limit: int
) -> list[StoredEvent]:
    """The last `limit` events that counted at `until_seq` (neither undone nor superseded by then),
    in log order."""
    if not 0 < limit <= MAX_TAIL:
        raise BadInput("limit", limit, f"1 to {MAX_TAIL}")
    parameters = {"user_key": user_key, "until_seq": until_seq, "at_most": limit}
    return [to_event(row) for row in conn.execute(_EFFECTIVE, parameters)][::-1]


def iterate_log(
    conn: Connection, after_user_key: int | None = None, chunk: int = 10_000
) -> Iterator[list[StoredEvent]]:
    """The whole log in chunks, ordered by (user_key, user_seq), from after `after_user_key` on.

    `conn` must be of `read_snapshot`, so that all chunks are of one moment: its last `user_seq` of
    each user is the watermark. A chunk may end amid a user. Memory: one chunk.
    """
    if not 0 < chunk <= MAX_CHUNK:
        raise BadInput("chunk", chunk, f"1 to {MAX_CHUNK}")
    position = (-1 if after_user_key is None else after_user_key, 2**63 - 1)
    while True:
        rows = conn.execute(
            _NEXT_CHUNK, {"user_key": position[0], "user_seq": position[1], "at_most": chunk}
        ).all()
        if not rows:
            return
        yield [to_event(row) for row in rows]
        position = (rows[-1][0], rows[-1][1])


def read_trimmed(conn: Connection) -> dict[int, int]:
    """user_key -> trimmed_seq of every user of whom retention took events."""
    rows = conn.execute(
        select(users.c.user_key, users.c.trimmed_seq).where(users.c.trimmed_seq > 0)
    )
    return {row[0]: row[1] for row in rows}


_NEXT_CHUNK = (
    select(*EVENT_COLUMNS)
    .where(
        tuple_(events.c.user_key, events.c.user_seq)
        > tuple_(bindparam("user_key"), bindparam("user_seq"))
    )
    .order_by(events.c.user_key, events.c.user_seq)
    .limit(bindparam("at_most"))
)


def read_text_vectors(
    conn: Connection, user_key: int, seqs: Sequence[int], encoder_id: str
) -> dict[int, NDArray[np.float32]]:
    """The stored vectors, (dim,) each, of those searches and comments that have one."""
    if not seqs:
        return {}
    parameters = {**batch_rows((user_key, seq) for seq in seqs), "encoder_id": encoder_id}
    rows = conn.execute(_text_vectors_sql(conn.dialect.name), parameters)
    return {row[0]: from_bytes(row[1]) for row in rows}


@cache
def _text_vectors_sql(dialect: str) -> Select[Any]:
    # The user's key comes with each row: as a parameter of its own it would make SQLite take all
    # of the user's vectors and read the batch once for each (see `catalog_reads`).
    batch = batch_of(dialect, user_key=int, user_seq=int)
    return select(text_vectors.c.user_seq, text_vectors.c.vector).join_from(
        batch,
        text_vectors,
        (text_vectors.c.user_key == batch.c.user_key)
        & (text_vectors.c.user_seq == batch.c.user_seq)
        & (text_vectors.c.encoder_id == bindparam("encoder_id")),
    )


def iterate_text_vectors(
    conn: Connection, encoder_id: str
) -> Iterator[tuple[tuple[int, int], NDArray[np.float32]]]:
    """((user_key, user_seq), vector (dim,)) of every search and comment embedded by that encoder,
    in that order."""
    rows = conn.execute(
        _ALL_TEXT_VECTORS, {"encoder_id": encoder_id}, execution_options={"yield_per": 1_000}
    )
    for row in rows:
        yield (row[0], row[1]), from_bytes(row[2])


_ALL_TEXT_VECTORS = (
    select(text_vectors.c.user_key, text_vectors.c.user_seq, text_vectors.c.vector)
    .where(text_vectors.c.encoder_id == bindparam("encoder_id"))
    .order_by(text_vectors.c.user_key, text_vectors.c.user_seq)
)


def write_text_vector(
    engine: Engine,
    user_key: int,
    user_seq: int,
    encoder_id: str,
    vector: NDArray[np.float32],
) -> bool:
    """Store the vector of a search or comment that was embedded at the fold.

    The first one stays: both the day and the night must read the same. False: there was one
    already, or the event is gone (erased meanwhile).
    """
    with write(engine) as conn:
        event = (
            select(events.c.user_seq)
            .where(events.c.user_key == user_key, events.c.user_seq == user_seq)
            .with_for_update(read=True, key_share=True)
        )
        if conn.execute(event).first() is None:
            return False
        row = {
            "user_key": user_key,
            "user_seq": user_seq,
            "encoder_id": encoder_id,
            "vector": to_bytes("vector", vector),
        }
        statement = insert_into(conn.dialect.name, text_vectors).on_conflict_do_nothing()
        return bool(conn.execute(statement, row).rowcount == 1)
