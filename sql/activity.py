"""How often each item was acted on, by hour: it feeds trending, cold start and priors."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson
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

SLICE_ROWS = 5_000
"""Read at once, in some 2 ms; many times more than the kinds and slots of one item."""


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
    conn: Connection,
    hour: int,
    kind_weights: Mapping[str, float],
    limit: int,
    pause: Callable[[], None] = lambda: None,
) -> HourCounts:
    """The `limit` items most acted on in an hour. A kind without a weight does not count.

    Read in slices of one snapshot; `pause` is called between two, so that whoever reads beside
    others leaves the processor to them.
    """
    read: list[NDArray[np.int64]] = []
    first = 0
    while True:
        rows_3R = _slice(conn, hour, kind_weights, first)
        is_last = rows_3R.shape[1] < SLICE_ROWS
        if not is_last:  # of its last item there may be more rows: they come with the next slice
            first = int(rows_3R[0, -1])
            rows_3R = rows_3R[:, rows_3R[0] < first]
            assert rows_3R.shape[1], "an item has fewer rows than a slice"
        read.append(rows_3R)
        if is_last:
            break
        pause()
    rows_3R = np.concatenate(read, axis=1)
    return HourCounts(*_most(*_summed(rows_3R, kind_weights), limit), rows_3R.shape[1])


def _slice(
    conn: Connection, hour: int, kind_weights: Mapping[str, float], first: int
) -> NDArray[np.int64]:
    """(3, R): ordinal, place of the kind among the weights, and count of the rows from that item
    on, ascending by item; `SLICE_ROWS` of them unless they are the last."""
    listed = _listed_by(conn.dialect.name)
    places = {kind: place for place, kind in enumerate(kind_weights)}
    part = (
        select(
            item_activity.c.ordinal,
            case(places, value=item_activity.c.kind, else_=len(places)).label("place"),
            item_activity.c.n,
        )
        .where(item_activity.c.hour == hour, item_activity.c.ordinal >= first)
        .order_by(item_activity.c.ordinal)
        .limit(SLICE_ROWS)
        .subquery("part")
    )
    # As three texts: to fetch thousands of rows keeps the interpreter from who answers.
    texts = conn.execute(select(*(listed(column).label(column.name) for column in part.c))).one()
    return np.array([orjson.loads(text) for text in texts], np.int64)


def _summed(
    rows_3R: NDArray[np.int64], kind_weights: Mapping[str, float]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The items, ascending, and the weighted sum of each."""
    ordinals, places, counts = rows_3R
    if not len(ordinals):
        return ordinals, np.zeros(0)
    weights = np.array([*kind_weights.values(), 0.0])
    starts = np.flatnonzero(np.diff(ordinals, prepend=ordinals[0] - 1))
    return ordinals[starts], np.add.reduceat(weights[places] * counts, starts)


def _most(
    ordinals: NDArray[np.int64], sums: NDArray[np.float64], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `limit` largest sums above zero, of equal ones those of the lower ordinals."""
    kept = np.flatnonzero(sums > 0)
    if len(kept) > limit:
        least = np.partition(sums[kept], len(kept) - limit)[len(kept) - limit]
        above = kept[sums[kept] > least]
        kept = np.concatenate([above, kept[sums[kept] == least][: limit - len(above)]])
    return ordinals[kept], sums[kept].astype(np.float32)


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
