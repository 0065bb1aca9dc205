"""How often each item was acted on, by hour: it feeds trending, cold start and priors."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Text,
    case,
    cast,
    func,
    literal_column,
    select,
)

from sql.errors import StoreUnavailable
from sql.event_rules import HOUR_MS
from sql.tables import events, item_activity
from sql.transactions import read_snapshot


def hour_of(at_ms: int) -> int:
    """The hour, counted from 1970 UTC, in which `at_ms` lies."""
    return at_ms // HOUR_MS


class HourCounts(NamedTuple):
    """Items acted on in an hour, in no order: `ordinals` (N,), each once, and the weighted `sums`
    of their events (N,) float32. `rows`: so many were read for it."""

    ordinals: NDArray[np.int64]
    sums: NDArray[np.float32]
    rows: int


def read_hour(
    conn: Connection, hour: int, kind_weights: Mapping[str, float], limit: int
) -> HourCounts:
    """The `limit` items most acted on in an hour. A kind without a weight does not count."""
    total = _weighted(kind_weights)
    of_hour = item_activity.c.hour == hour
    most = (
        select(item_activity.c.ordinal, total.label("total"))
        .where(of_hour)
        .group_by(item_activity.c.ordinal)
        .having(total > 0)
    )
    rows = conn.scalar(select(func.count()).select_from(item_activity).where(of_hour)) or 0
    if rows > limit:  # to put them in order takes as long as to read them
        most = most.order_by(total.desc(), item_activity.c.ordinal).limit(limit)
    # As two texts: to fetch thousands of rows keeps the interpreter from who answers.
    listed = _listed_by(conn.dialect.name)
    kept = most.subquery("most")
    ordinals, sums = conn.execute(
        select(listed(kept.c.ordinal).label("ordinals"), listed(kept.c.total).label("sums"))
    ).one()
    return HourCounts(
        np.array(json.loads(ordinals), np.int64), np.array(json.loads(sums), np.float32), rows
    )


def _listed_by(dialect: str) -> Callable[[ColumnElement[Any]], ColumnElement[str]]:
    """All of a column as one JSON text."""
    if dialect == "sqlite":
        return func.json_group_array
    nothing: ColumnElement[Any] = literal_column("'[]'::json")
    return lambda column: cast(func.coalesce(func.json_agg(column), nothing), Text)


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
