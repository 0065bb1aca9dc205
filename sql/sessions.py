"""Sessions: a cache of the fold, one a generation and user. Written only forward."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, bindparam, delete, select

from sql.batch import batch_of, batch_rows, insert_into
from sql.ids import BadInput, check_id
from sql.prepared import fetch, run_each
from sql.tables import sessions, users
from sql.transactions import read_snapshot, write

MAX_CHUNK = 10_000
MAX_STATE_BYTES = 4 * 2**20


class SessionRow(NamedTuple):
    """A user's state at `user_seq`, as bytes that only the encoder understands.

    `trimmed_seq`: the user's when it was folded. Where retention has taken events since, the
    session holds what the log no longer does, and is not used.
    """

    user_key: int
    user_seq: int
    state: bytes
    trimmed_seq: int = 0


_NAMES = ("generation_id", *SessionRow._fields)
_READ = select(*(sessions.c[name] for name in SessionRow._fields)).where(
    sessions.c.generation_id == bindparam("generation_id"),
    sessions.c.user_key == bindparam("user_key"),
)


def read_session(conn: Connection, generation_id: str, user_key: int) -> SessionRow | None:
    """The stored session; whether it is valid now, only the log can say (see `snapshot`)."""
    row = conn.execute(_READ, {"generation_id": generation_id, "user_key": user_key}).first()
    return SessionRow(*row) if row else None


def write_sessions(
    engine: Engine,
    generation_id: str,
    rows: Iterable[SessionRow],
    *,
    chunk: int = 200,
    pause_s: float = 0.005,
    progress: Callable[[int], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Store sessions in small transactions with a pause after each; return how many were stored.

    Skipped: a row that is not ahead of the one stored, and a row of a user who was erased, or of
    whom retention took events, meanwhile. `progress` is told of each chunk's rows. (Measured on
    SQLite, ANCHORS: one big transaction stalls acknowledgements for 3.6 s, chunks of 200 with a
    pause for 13 ms.)
    """
    check_id("generation_id", generation_id)
    stored = 0
    for part in _chunks(rows, chunk):
        stored += _write_chunk(engine, generation_id, part)
        if progress is not None:
            progress(len(part))
        sleep(pause_s)
    return stored


def prune_sessions(
    engine: Engine,
    keep_generations: Collection[str],
    chunk: int = 500,
    pause_s: float = 0.005,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Delete the sessions of all generations but those, paced as above; return how many."""
    if not 0 < chunk <= MAX_CHUNK:
        raise BadInput("chunk", chunk, f"1 to {MAX_CHUNK}")
    with read_snapshot(engine) as conn:
        kept = sessions.c.generation_id.not_in(sorted(keep_generations))
        gone = conn.execute(select(sessions.c.generation_id).where(kept).distinct()).scalars().all()
    # In key order, so that two prunes at once do not wait for each other in a circle.
    return sum(_prune_generation(engine, one, chunk, pause_s, sleep) for one in sorted(gone))


def _prune_generation(
    engine: Engine,
    generation_id: str,
    chunk: int,
    pause_s: float,
    sleep: Callable[[float], None],
) -> int:
    """One generation at a time: a chunk is then a range of the key, whatever else is stored. To
    find it among all would read every kept session under the writer's lock, for each chunk."""
    of_it = sessions.c.generation_id == generation_id
    some = (
        select(sessions.c.user_key)
        .where(of_it)
        .order_by(sessions.c.user_key)
        .limit(chunk)
        .with_for_update()
    )
    deleted = 0
    while True:
        with write(engine) as conn:
            n = conn.execute(delete(sessions).where(of_it, sessions.c.user_key.in_(some))).rowcount
        deleted += n
        if n == 0:
            return deleted
        sleep(pause_s)


def _chunks(rows: Iterable[SessionRow], chunk: int) -> Iterator[list[SessionRow]]:
    if not 0 < chunk <= MAX_CHUNK:
        raise BadInput("chunk", chunk, f"1 to {MAX_CHUNK}")
    source = iter(rows)
    while part := list(islice(source, chunk)):
        yield part


def _write_chunk(engine: Engine, generation_id: str, part: Sequence[SessionRow]) -> int:
    for row in part:
        if len(row.state) > MAX_STATE_BYTES:
            raise BadInput("state", len(row.state), f"at most {MAX_STATE_BYTES} bytes")
    rows = sorted(part)
    parameters = batch_rows((row.user_key,) for row in part)
    with write(engine) as conn:
        dialect = conn.dialect.name
        present = set(fetch(conn, _present_sql(dialect), parameters))
        values = (
            (generation_id, *row) for row in rows if (row.user_key, row.trimmed_seq) in present
        )
        return run_each(conn, _upsert_sql(dialect), _NAMES, values)


@cache
def _present_sql(dialect: str) -> Select[Any]:
    """Who still is, and their `trimmed_seq`. The lock keeps an erasure out until the commit."""
    batch = batch_of(dialect, user_key=int)
    return (
        select(users.c.user_key, users.c.trimmed_seq)
        .join_from(batch, users, users.c.user_key == batch.c.user_key)
        .order_by(users.c.user_key)
        .with_for_update(of=users, read=True, key_share=True)
    )


@cache
def _upsert_sql(dialect: str) -> Any:
    statement = insert_into(dialect, sessions).values({name: bindparam(name) for name in _NAMES})
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["generation_id", "user_key"],
        set_={name: new[name] for name in ("user_seq", "state", "trimmed_seq")},
        # Forward: what was folded after a trim is ahead of all that was folded before it.
        where=(new.trimmed_seq > sessions.c.trimmed_seq)
        | ((new.trimmed_seq == sessions.c.trimmed_seq) & (new.user_seq > sessions.c.user_seq)),
    )
