"""How often each item was acted on, by hour: it feeds trending, cold start and priors."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Engine, case, func, select

from sql.errors import StoreUnavailable
from sql.event_rules import HOUR_MS
from sql.tables import events, item_activity
from sql.transactions import read_snapshot


def hour_of(at_ms: int) -> int:
    """The hour, counted from 1970 UTC, in which `at_ms` lies."""
    return at_ms // HOUR_MS


def read_hour(
    conn: Connection, hour: int, kind_weights: Mapping[str, float], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `limit` items most acted on in an hour: ordinals (N,), each once, and the weighted sums
    of their events (N,) float32. A kind without a weight does not count."""
    total = _weighted(kind_weights)
    rows = conn.execute(
        select(item_activity.c.ordinal, total)
        .where(item_activity.c.hour == hour)
        .group_by(item_activity.c.ordinal)
        .having(total > 0)
        .order_by(total.desc(), item_activity.c.ordinal)
        .limit(limit)
    ).all()
    ordinals = np.array([row[0] for row in rows], np.int64)
    return ordinals, np.array([float(row[1]) for row in rows], np.float32)


def newest_hour(conn: Connection) -> int | None:
    """The last hour in which something was done with an item; None where nothing ever was."""
    found: int | None = conn.scalar(select(func.max(item_activity.c.hour)))
    return found


def last_event_ms(engine: Engine, now_ms: int) -> int | None:
    """When an event last came in, history that was brought in aside; None where none ever did.

    The log has no index by time, and is read only where nothing was done with an item in this hour:
    else the answer is `now_ms`, less than an hour too late. A log that cannot be read within the
    statement timeout gives the end of the last hour with activity.
    """
    with read_snapshot(engine) as conn:
        hour = newest_hour(conn)
    if hour is not None and hour >= hour_of(now_ms):
        return now_ms
    newest = select(func.max(events.c.received_at_ms)).where(events.c.counted_hour.is_(None))
    try:
        with read_snapshot(engine) as conn:
            found: int | None = conn.scalar(newest)
    except StoreUnavailable:
        found = None if hour is None else (hour + 1) * HOUR_MS
    return found


def iterate_activity(
    conn: Connection, before_hour: int, kind_weights: Mapping[str, float], chunk: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """(hours, ordinals, weighted sums) of the hours before that one, ascending, in chunks."""
    total = _weighted(kind_weights)
    rows = conn.execution_options(yield_per=chunk).execute(
        select(item_activity.c.hour, item_activity.c.ordinal, total)
        .where(item_activity.c.hour < before_hour)
        .group_by(item_activity.c.hour, item_activity.c.ordinal)
        .having(total > 0)
        .order_by(item_activity.c.hour, item_activity.c.ordinal)
    )
    for part in rows.partitions():
        hours, ordinals, sums = zip(*part, strict=True)
        yield np.array(hours, np.int64), np.array(ordinals, np.int64), np.array(sums, np.float32)


def _weighted(kind_weights: Mapping[str, float]) -> ColumnElement[float]:
    weights = case(dict(kind_weights), value=item_activity.c.kind, else_=0.0)
    return func.sum(weights * item_activity.c.n)
