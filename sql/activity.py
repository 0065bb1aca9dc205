"""How often each item was acted on, by hour: it feeds trending, cold start and priors."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, case, func, select

from sql.event_rules import HOUR_MS
from sql.tables import item_activity

_MAX_HOUR = 2**53


class ActivityCount(NamedTuple):
    """`n` events of `kind` on the item `ordinal`; undone and superseded ones are taken off."""

    ordinal: int
    kind: str
    n: int


def hour_of(at_ms: int) -> int:
    """The hour, counted from 1970 UTC, in which `at_ms` lies."""
    return at_ms // HOUR_MS


_N = func.sum(item_activity.c.n)
_READ = (
    select(item_activity.c.ordinal, item_activity.c.kind, _N)
    .where(item_activity.c.hour >= bindparam("since"), item_activity.c.hour < bindparam("until"))
    .group_by(item_activity.c.ordinal, item_activity.c.kind)
    .having(_N > 0)
    .order_by(item_activity.c.ordinal, item_activity.c.kind)
)


def read_activity(
    conn: Connection, since_hour: int, until_hour: int | None = None
) -> list[ActivityCount]:
    """Counts of the hours in [`since_hour`, `until_hour`), the latter an `as_of`; None: no end."""
    until = _MAX_HOUR if until_hour is None else until_hour
    rows = conn.execute(_READ, {"since": since_hour, "until": until})
    return [ActivityCount(row[0], row[1], int(row[2])) for row in rows]


def read_hour(
    conn: Connection, hour: int, kind_weights: Mapping[str, float], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `limit` items most acted on in an hour: ordinals (N,), each once, and the weighted sums
    of their events (N,) float32. A kind without a weight does not count."""
    weights = case(dict(kind_weights), value=item_activity.c.kind, else_=0.0)
    total = func.sum(weights * item_activity.c.n)
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
