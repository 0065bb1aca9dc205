"""Reading the catalog: items as they stand, the log of their changes, their texts and vectors."""

import json
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, bindparam, select

from sql.batch import batch_of, batch_rows
from sql.ids import BadInput
from sql.item import CatalogChange, Item, ItemBody, ItemRef
from sql.prepared import fetch
from sql.tables import catalog_head, catalog_log, item_vectors, items, texts
from sql.vectors import from_bytes

MAX_PAGE = 10_000

_ITEM_COLUMNS = (
    items.c.item_id,
    items.c.ordinal,
    items.c.body,
    items.c.text_digest,
    items.c.version,
    items.c.change_seq,
    items.c.at_ms,
    items.c.former_ordinals,
)
_CATALOG_SEQ = select(catalog_head.c.change_seq)
_ITEM = select(*_ITEM_COLUMNS).where(items.c.item_id == bindparam("item_id"), ~items.c.deleted)
_PAGE = (
    select(*_ITEM_COLUMNS)
    .where(items.c.ordinal > bindparam("after"), ~items.c.deleted)
    .order_by(items.c.ordinal)
    .limit(bindparam("at_most"))
)
_REFS = (
    select(items.c.item_id, items.c.ordinal, items.c.text_digest)
    .where(
        items.c.ordinal > bindparam("after"),
        ~items.c.deleted,
        items.c.change_seq <= bindparam("until_seq"),
    )
    .order_by(items.c.ordinal)
    .limit(bindparam("at_most"))
)
_CHANGES = (
    select(
        catalog_log.c.change_seq,
        catalog_log.c.op,
        catalog_log.c.item_id,
        catalog_log.c.ordinal,
        catalog_log.c.body,
        catalog_log.c.text_digest,
        catalog_log.c.replaced_ordinal,
        items.c.former_ordinals,
    )
    .select_from(catalog_log)
    .outerjoin(items, items.c.item_id == catalog_log.c.item_id)
    .where(catalog_log.c.change_seq > bindparam("after"))
    .order_by(catalog_log.c.change_seq)
    .limit(bindparam("at_most"))
)
_CHANGED_AT = (
    select(catalog_log.c.at_ms)
    .where(catalog_log.c.change_seq > bindparam("after"))
    .order_by(catalog_log.c.change_seq)
    .limit(1)
)


def catalog_seq(conn: Connection) -> int:
    """The number of the last change; 0 for a new catalog."""
    return int(conn.execute(_CATALOG_SEQ).scalar_one())


def next_change_at_ms(conn: Connection, after: int) -> int | None:
    """When the first change after that number was made; None where there is none."""
    at_ms: int | None = conn.execute(_CHANGED_AT, {"after": after}).scalar_one_or_none()
    return at_ms


def read_item(conn: Connection, item_id: str) -> Item | None:
    """The item of that id; None where there is none or it is deleted."""
    row = conn.execute(_ITEM, {"item_id": item_id}).first()
    return item_of(row) if row else None


def read_items(conn: Connection, after_ordinal: int, limit: int) -> list[Item]:
    """A page of the items that are not deleted, by ordinal. The first page is after -1."""
    return [item_of(row) for row in conn.execute(_PAGE, _page(after_ordinal, limit))]


def read_refs(
    conn: Connection, after_ordinal: int, limit: int, *, until_change_seq: int
) -> list[ItemRef]:
    """A page of the items that are not deleted and did not change after that number, by ordinal,
    without their bodies."""
    page = {**_page(after_ordinal, limit), "until_seq": until_change_seq}
    return [ItemRef(*row) for row in conn.execute(_REFS, page)]


def items_by_ordinal(conn: Connection, ordinals: Iterable[int]) -> dict[int, Item]:
    """The items among `ordinals` that are not deleted."""
    parameters = batch_rows((int(ordinal),) for ordinal in ordinals)
    rows = conn.execute(_by_ordinal_sql(conn.dialect.name), parameters)
    return {row[1]: item_of(row) for row in rows}


@cache
def _by_ordinal_sql(dialect: str) -> Select[Any]:
    batch = batch_of(dialect, ordinal=int)
    return (
        select(*_ITEM_COLUMNS)
        .join_from(batch, items, items.c.ordinal == batch.c.ordinal)
        .where(~items.c.deleted)
    )


def resolve_items(conn: Connection, item_ids: Collection[str]) -> dict[str, ItemRef]:
    """Ordinal and text digest of the items among `item_ids` that exist and are not deleted."""
    if not item_ids:
        return {}
    parameters = batch_rows((item_id,) for item_id in item_ids)
    rows = fetch(conn, _resolve_sql(conn.dialect.name), parameters)
    return {row[0]: ItemRef(*row) for row in rows}


@cache
def _resolve_sql(dialect: str) -> Select[Any]:
    batch = batch_of(dialect, item_id=str)
    return (
        select(items.c.item_id, items.c.ordinal, items.c.text_digest)
        .join_from(batch, items, items.c.item_id == batch.c.item_id)
        .where(~items.c.deleted)
    )


def read_changes(conn: Connection, after_change_seq: int, limit: int) -> list[CatalogChange]:
    """The first `limit` changes after `after_change_seq`, in the order in which they happened."""
    rows = conn.execute(_CHANGES, _page(after_change_seq, limit))
    return [
        CatalogChange(
            change_seq=row[0],
            op=row[1],
            item_id=row[2],
            ordinal=row[3],
            body=None if row[4] is None else ItemBody.model_validate_json(row[4]),
            text_digest=row[5],
            replaced_ordinal=row[6],
            # The id may have been put again since: those below are what it had by then.
            former_ordinals=tuple(o for o in _ordinals(row[7]) if o < row[3]),
        )
        for row in rows
    ]


def texts_by_digest(conn: Connection, digests: Sequence[str]) -> dict[str, str]:
    """The cleaned texts (what BERT reads) of those digests that are known."""
    parameters = batch_rows((digest,) for digest in digests)
    rows = conn.execute(_texts_sql(conn.dialect.name), parameters)
    return {row[0]: row[1] for row in rows}


@cache
def _texts_sql(dialect: str) -> Select[Any]:
    batch = batch_of(dialect, text_digest=str)
    return select(texts.c.text_digest, texts.c.text).join_from(
        batch, texts, texts.c.text_digest == batch.c.text_digest
    )


def read_item_vectors(
    conn: Connection, encoder_id: str, digests: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """The stored vectors, (dim,) each, of those text digests that have one of that encoder."""
    parameters = batch_rows((encoder_id, digest) for digest in digests)
    rows = conn.execute(_vectors_sql(conn.dialect.name), parameters)
    return {row[0]: from_bytes(row[1]) for row in rows}


@cache
def _vectors_sql(dialect: str) -> Select[Any]:
    # The whole key comes from the batch. With the encoder id as a parameter of its own SQLite takes
    # all vectors of the encoder and reads the batch once for each: 2.5 s for 3,000 of 3,000.
    batch = batch_of(dialect, encoder_id=str, text_digest=str)
    return select(item_vectors.c.text_digest, item_vectors.c.vector).join_from(
        batch,
        item_vectors,
        (item_vectors.c.encoder_id == batch.c.encoder_id)
        & (item_vectors.c.text_digest == batch.c.text_digest),
    )


def _page(after: int, limit: int) -> dict[str, int]:
    if not 0 < limit <= MAX_PAGE:
        raise BadInput("limit", limit, f"1 to {MAX_PAGE}")
    return {"after": after, "at_most": limit}


def item_of(row: Any) -> Item:
    """A row of `_ITEM_COLUMNS`, or of others that stand for them in their order."""
    return Item(
        item_id=row[0],
        ordinal=row[1],
        body=ItemBody.model_validate_json(row[2]),
        text_digest=row[3],
        version=row[4],
        change_seq=row[5],
        at_ms=row[6],
        former_ordinals=_ordinals(row[7]),
    )


def _ordinals(stored: str | None) -> tuple[int, ...]:
    return tuple(json.loads(stored)) if stored else ()
