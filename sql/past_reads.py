"""The log and the catalog as they were at a watermark of the past, as far as they still hold it.

The catalog's log keeps every change, with the text's digest, so that the items of a `change_seq`
come back exactly. Of the events those come back that are still there: erased users and what
retention took are gone.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select

from sql.catalog_reads import item_of
from sql.item import Item
from sql.tables import catalog_log, events, items


def read_cuts(conn: Connection, received_until_ms: int) -> dict[int, int]:
    """user_key -> the first `user_seq` that was received after that time, of users who have one.

    What comes before it is a prefix of the user's log: where a clock went back between two
    requests, an event of before the time that follows one of after it is cut off too.
    """
    rows = conn.execute(
        select(events.c.user_key, func.min(events.c.user_seq))
        .where(events.c.received_at_ms > received_until_ms)
        .group_by(events.c.user_key)
    )
    return {row[0]: row[1] for row in rows}


def iterate_items_at(conn: Connection, change_seq: int, chunk: int) -> Iterator[list[Item]]:
    """Chunks of the items that were not deleted after change `change_seq`, by ordinal.

    `version` is that of the change: a put that changed nothing else left no trace in the log.
    """
    rows = conn.execution_options(yield_per=chunk).execute(_items_at(), {"until": change_seq})
    for part in rows.partitions():
        yield [_item(row) for row in part]


def _items_at() -> Select[Any]:
    last = (
        select(func.max(catalog_log.c.change_seq).label("change_seq"))
        .where(catalog_log.c.change_seq <= bindparam("until"))
        .group_by(catalog_log.c.item_id)
        .subquery()
    )
    return (
        select(
            catalog_log.c.item_id,
            catalog_log.c.ordinal,
            catalog_log.c.body,
            catalog_log.c.text_digest,
            catalog_log.c.version,
            catalog_log.c.change_seq,
            catalog_log.c.at_ms,
            items.c.former_ordinals,
        )
        .join(last, last.c.change_seq == catalog_log.c.change_seq)
        .outerjoin(items, items.c.item_id == catalog_log.c.item_id)
        .where(catalog_log.c.op == "put")
        .order_by(catalog_log.c.ordinal)
    )


def _item(row: Any) -> Item:
    found = item_of(row)
    # The id may have been put again since: those below are what it had by then.
    former = tuple(ordinal for ordinal in found.former_ordinals if ordinal < found.ordinal)
    return replace(found, former_ordinals=former)
