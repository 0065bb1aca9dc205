"""The catalog, whole: items (`item`), changing (`catalog_log`), reading (`catalog_reads`)."""

from sql.catalog_log import delete_item, put_items, write_item_vectors
from sql.catalog_reads import (
    catalog_seq,
    items_by_ordinal,
    next_change_at_ms,
    read_changes,
    read_item,
    read_item_vectors,
    read_items,
    read_refs,
    resolve_items,
    texts_by_digest,
)
from sql.item import CatalogChange, DeleteResult, Item, ItemBody, ItemPut, ItemRef, PutResult

__all__ = [
    "CatalogChange",
    "DeleteResult",
    "Item",
    "ItemBody",
    "ItemPut",
    "ItemRef",
    "PutResult",
    "catalog_seq",
    "delete_item",
    "items_by_ordinal",
    "next_change_at_ms",
    "put_items",
    "read_changes",
    "read_item",
    "read_item_vectors",
    "read_items",
    "read_refs",
    "resolve_items",
    "texts_by_digest",
    "write_item_vectors",
]
