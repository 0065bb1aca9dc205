"""How often each item was acted on, by hour: it feeds trending, cold start and priors."""

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, select

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
