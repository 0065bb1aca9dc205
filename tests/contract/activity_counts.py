"""What `item_activity` holds, kind by kind: the shipped code reads an hour's weighted sums only."""

from typing import NamedTuple

from sqlalchemy import Connection, func, select

from sql.tables import item_activity


class ActivityCount(NamedTuple):
    """`n` events of `kind` on the item `ordinal`; undone and superseded ones are taken off."""

    ordinal: int
    kind: str
    n: int


def read_activity(
    conn: Connection, since_hour: int, until_hour: int = 2**53
) -> list[ActivityCount]:
    """Counts of the hours in [`since_hour`, `until_hour`)."""
    total = func.sum(item_activity.c.n)
    rows = conn.execute(
        select(item_activity.c.ordinal, item_activity.c.kind, total)
        .where(item_activity.c.hour >= since_hour, item_activity.c.hour < until_hour)
        .group_by(item_activity.c.ordinal, item_activity.c.kind)
        .having(total > 0)
        .order_by(item_activity.c.ordinal, item_activity.c.kind)
    )
    return [ActivityCount(row[0], row[1], int(row[2])) for row in rows]
