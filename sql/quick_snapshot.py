"""The snapshot of `snapshot`, read the short way: two statements by the driver itself.

Nearly every read of a recommendation is of a user whose session holds and whose tail is short and
without texts. Those two statements take SQLite some 20 us; SQLAlchemy around them took 0.5 ms.
Whatever else there is to read is left to `snapshot`, which begins anew: the answer here is whole or
None.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Dialect, Engine, Select, bindparam, case, func, select

from sql.event import TEXT_KINDS, StoredEvent
from sql.history import EVENT_COLUMNS, USER_COLUMNS, UserRow, to_event
from sql.live import LIVE_COLUMNS, LivePointer
from sql.prepared import prepared
from sql.tables import catalog_head, events, live, sessions, users
from sql.transactions import driver_errors

_USER_END = 1 + len(USER_COLUMNS)
_LIVE_END = _USER_END + len(LIVE_COLUMNS)

_HEAD = (
    select(
        catalog_head.c.change_seq,
        *USER_COLUMNS,
        *LIVE_COLUMNS,
        catalog_head.c.policy_seq,
        sessions.c.user_seq,
        # The state is some kilobytes; where the caller's is as new, it stays where it is.
        case((sessions.c.user_seq > bindparam("cached_seq"), sessions.c.state)),
    )
    .select_from(catalog_head)
    .outerjoin(users, users.c.user_id == bindparam("user_id"))
    .outerjoin(live, live.c.flip == select(func.max(live.c.flip)).scalar_subquery())
    .outerjoin(
        sessions,
        (sessions.c.generation_id == bindparam("generation_id"))
        & (sessions.c.user_key == users.c.user_key)
        & (sessions.c.trimmed_seq == users.c.trimmed_seq),
    )
)

_TAIL = (
    select(*EVENT_COLUMNS)
    .where(events.c.user_key == bindparam("user_key"), events.c.user_seq > bindparam("after_seq"))
    .order_by(events.c.user_seq)
    .limit(bindparam("at_most"))
)


class Read(NamedTuple):
    """What was read. `base_seq`: of the session that holds; its `state` is None where it is the
    caller's own."""

    live: LivePointer
    user: UserRow
    base_seq: int
    state: bytes | None
    tail: list[StoredEvent]
    catalog_seq: int
    policy_seq: int


def read_quickly(
    engine: Engine,
    user_id: str,
    loaded: Sequence[str],
    cached: Mapping[str, tuple[int, int, int]],
    max_tail: int,
) -> Read | None:
    """What `snapshot.read_recommendation` reads of a user; see there. None: read it there.

    Raises as `transactions.read_snapshot` does.
    """
    if not loaded:
        return None
    generation_id = loaded[0]  # mostly the live one; if it is not, the answer is None
    mine = cached.get(generation_id)
    with _transaction(engine) as execute:
        row = execute(
            _HEAD,
            {
                "cached_seq": -1 if mine is None else mine[1],
                "user_id": user_id,
                "generation_id": generation_id,
            },
        )[0]
        if row[1] is None or row[_USER_END] is None:
            return None
        user, pointer = UserRow(*row[1:_USER_END]), LivePointer(*row[_USER_END:_LIVE_END])
        if pointer.generation_id != generation_id:
            return None
        policy_seq, stored_seq, state = row[_LIVE_END:]
        base_seq: int
        if state is not None:
            base_seq = stored_seq
        elif mine is not None and (mine[0], mine[2]) == (user.user_key, user.trimmed_seq):
            base_seq = mine[1]
        else:
            return None
        if not 0 < base_seq <= user.last_user_seq:
            return None
        tail: list[StoredEvent] = []
        if base_seq < user.last_user_seq:
            named = {"user_key": user.user_key, "after_seq": base_seq, "at_most": max_tail}
            tail = [to_event(found) for found in execute(_TAIL, named)]
    if len(tail) == max_tail or any(_is_special(event, base_seq) for event in tail):
        return None
    return Read(pointer, user, base_seq, state, tail, row[0], policy_seq)


def _is_special(event: StoredEvent, base_seq: int) -> bool:
    """Whether it undoes into the base, or has a vector to be read."""
    reaches = event.undoes_seq is not None and event.undoes_seq <= base_seq
    return reaches or event.kind in TEXT_KINDS


Execute = Callable[[Select[Any], Mapping[str, Any]], list[Any]]


@contextmanager
def _transaction(engine: Engine) -> Iterator[Execute]:
    """A read transaction of the driver's own, on a connection of the pool."""
    dialect: Dialect = engine.dialect
    with driver_errors(engine):
        connection = engine.raw_connection()
        try:
            driver: Any = connection.driver_connection
            begin, end = _BOUNDS[dialect.name]
            begin(driver)
            cursor = driver.cursor()

            def execute(statement: Select[Any], named: Mapping[str, Any]) -> list[Any]:
                found = prepared(dialect, statement)
                cursor.execute(found.text, found.parameters(named))
                rows: list[Any] = cursor.fetchall()
                return rows

            yield execute
            cursor.close()
            end(driver)
        except BaseException:
            connection.invalidate()  # a transaction that is half done goes with it
            raise
        connection.close()  # back to the pool


def _begin_sqlite(driver: Any) -> None:
    driver.execute("BEGIN")


def _end_sqlite(driver: Any) -> None:
    driver.execute("COMMIT")


def _begin_postgres(driver: Any) -> None:
    """The next statement begins it so: no message of its own."""
    driver.isolation_level, driver.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True


def _end_postgres(driver: Any) -> None:
    driver.commit()
    # As the engine has them, whose connection it is.
    driver.isolation_level, driver.read_only = psycopg.IsolationLevel.READ_COMMITTED, None


_BOUNDS: Mapping[str, tuple[Callable[[Any], None], Callable[[Any], None]]] = {
    "sqlite": (_begin_sqlite, _end_sqlite),
    "postgresql": (_begin_postgres, _end_postgres),
}
