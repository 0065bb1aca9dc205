"""A sample of what the day knows of users: who to compare with the night.

`user_key` is random, so the users that follow a random key in key order are a random sample.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, and_, bindparam, func, select

from sql.tables import events, sessions, text_vectors, users
from sql.vectors import from_bytes

MAX_SAMPLE = 100_000
MAX_KEY = 2**63 - 1


class SampledText(NamedTuple):
    """A search or comment, and the vector that was stored with it."""

    text: str
    vector: NDArray[np.float32]


def sample_users(
    conn: Connection, generation_id: str, count: int, start_key: int
) -> tuple[list[str], int]:
    """Ids of `count` users from `start_key` on, and how many of them have events after what that
    generation's session holds. Those come first; others fill up where they are few."""
    with_tail = _from_key(conn, _ids(generation_id, True), count, start_key)
    rest = _from_key(conn, _ids(generation_id, False), count - len(with_tail), start_key)
    return with_tail + rest, len(with_tail)


def sample_texts(
    conn: Connection, encoder_id: str, count: int, start_key: int
) -> list[SampledText]:
    """Searches and comments that have a vector of that encoder, from `start_key` on."""
    statement = (
        select(events.c.text, text_vectors.c.vector)
        .join_from(
            text_vectors,
            events,
            and_(
                events.c.user_key == text_vectors.c.user_key,
                events.c.user_seq == text_vectors.c.user_seq,
            ),
        )
        .where(
            text_vectors.c.encoder_id == encoder_id,
            events.c.text.is_not(None),
            text_vectors.c.user_key.between(bindparam("low"), bindparam("high")),
        )
        .order_by(text_vectors.c.user_key, text_vectors.c.user_seq)
        .limit(bindparam("at_most"))
    )
    rows = _rows_from_key(conn, statement, count, start_key)
    return [SampledText(row[0], from_bytes(row[1])) for row in rows]


def _ids(generation_id: str, with_tail: bool) -> Select[Any]:
    folded = func.coalesce(sessions.c.user_seq, 0)
    behind = folded < users.c.last_user_seq
    return (
        select(users.c.user_id)
        .outerjoin_from(
            users,
            sessions,
            and_(
                sessions.c.user_key == users.c.user_key,
                sessions.c.generation_id == generation_id,
            ),
        )
        .where(
            behind if with_tail else ~behind,
            users.c.last_user_seq > 0,
            users.c.user_key.between(bindparam("low"), bindparam("high")),
        )
        .order_by(users.c.user_key)
        .limit(bindparam("at_most"))
    )


def _from_key(conn: Connection, statement: Select[Any], count: int, start_key: int) -> list[str]:
    return [row[0] for row in _rows_from_key(conn, statement, count, start_key)]


def _rows_from_key(
    conn: Connection, statement: Select[Any], count: int, start_key: int
) -> list[Any]:
    """The rows from `start_key` on, and then from the lowest key up to it."""
    found: list[Any] = []
    for low, high in ((start_key, MAX_KEY), (0, start_key - 1)):
        left = min(count, MAX_SAMPLE) - len(found)
        if left > 0:
            found += conn.execute(statement, {"low": low, "high": high, "at_most": left}).all()
    return found
