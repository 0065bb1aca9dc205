"""Ordinals of ids that are no items now, for events that are kept all the same.

Whoever hid, disliked or saw an id before it was put must not be shown it afterwards, so the event
needs the ordinal that the item will have. A deleted id has one (`former_ordinals` leads from it to
the next). An id that never was put gets one with the first event that names it: a row of `items`
that is deleted and whose `change_seq` is 0, for no change of the catalog made it. A put takes the
row, ordinal and all, and logs the item as created; a delete finds nothing.

What bounds it: a row is made only with an event that is stored, so there are never more than
events, and those are bounded by user (3,000 a minute and replica, 10,000 a day), by key and by
request (500). Erasing the user leaves the row: it holds the id that was named, and no user.
"""

from collections.abc import Collection, Iterable
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, insert, select, update

from sql.batch import batch_of, batch_rows
from sql.item import ItemRef
from sql.tables import catalog_head, items

NEVER_PUT = 0
"""`change_seq` of an id that only events name."""


class Unlisted(NamedTuple):
    """`known`: ordinals of ids that have a row; `fresh`: those that others would get, in order of
    the id; `listed`: ids that became items meanwhile."""

    known: dict[str, int]
    fresh: dict[str, int]
    listed: dict[str, ItemRef]

    @property
    def ordinals(self) -> dict[str, int]:
        """By id."""
        return self.known | self.fresh


def look_up(conn: Connection, item_ids: Collection[str]) -> Unlisted:
    """What `item_ids` are, under the lock of the catalog's writers.

    Call it after the locks of users: a writer of the catalog takes none of those, so nobody waits
    in a circle.
    """
    first = conn.execute(select(catalog_head.c.next_ordinal).with_for_update()).scalar_one()
    rows = conn.execute(
        _rows_sql(conn.dialect.name), batch_rows((item_id,) for item_id in item_ids)
    ).all()
    known = {row[0]: row[1] for row in rows if row[3]}
    listed = {row[0]: ItemRef(*row[:3]) for row in rows if not row[3]}
    absent = sorted(set(item_ids) - known.keys() - listed.keys())
    return Unlisted(known, {i: first + n for n, i in enumerate(absent)}, listed)


def reserve(conn: Connection, unlisted: Unlisted, named: Iterable[str], at_ms: int) -> None:
    """Give the ids among `named` that have no row yet the ordinals that `look_up` foresaw."""
    used = sorted(set(named) & unlisted.fresh.keys())
    if not used:
        return
    rows = [
        {
            "item_id": item_id,
            "ordinal": unlisted.fresh[item_id],
            "change_seq": NEVER_PUT,
            "deleted": True,
            "at_ms": at_ms,
        }
        for item_id in used
    ]
    conn.execute(insert(items), rows)
    conn.execute(update(catalog_head).values(next_ordinal=unlisted.fresh[used[-1]] + 1))


@cache
def _rows_sql(dialect: str) -> Select[Any]:
    batch = batch_of(dialect, item_id=str)
    return select(items.c.item_id, items.c.ordinal, items.c.text_digest, items.c.deleted).join_from(
        batch, items, items.c.item_id == batch.c.item_id
    )
