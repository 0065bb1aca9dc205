"""How often each item was acted on, by hour: it feeds trending, cold start and priors."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, case, func, select

from sql.event_rules import HOUR_MS
from sql.tables import item_activity


def hour_of(at_ms: int) -> int:
    """The hour, counted from 1970 UTC, in which `at_ms` lies."""
    return at_ms // HOUR_MS


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
