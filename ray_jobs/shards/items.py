"""items.parquet, and the items of a generation with the day's changes laid over them.

    ItemTable   ordinal -> item, and which ordinals match a filter

Like the delta it is a snapshot: `with_changes` returns a new table and leaves the old one as it
was. The newest layer that names an ordinal decides; a deleted ordinal is in no answer, and one that
is withdrawn (not `available`) is known but matches no filter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.errors import CorruptArtifact, MissingArtifact
from ray_jobs.shards.item_block import (
    SCHEMA,
    AttributeValue,
    Card,
    Item,
    ItemBlock,
    Scalar,
    Wanted,
    attributes_json,
    newest_rows,
    table_of,
)
from ray_jobs.shards.merge import Ordinals, in_sorted, sorted_ordinals, union_sorted

__all__ = [
    "AttributeValue",
    "Card",
    "Item",
    "ItemTable",
    "Scalar",
    "Wanted",
    "attributes_json",
    "read_items",
    "write_items",
]

ITEMS_NAME = "items.parquet"
# Changes scanned one by one at a filter; above, they become columns with an index of their own.
SEAL_AT = 1_024
# Items that are objects at a time while a file is written; columns are smaller, and the garbage
# collector does not walk over them.
PART = 10_000
# Layers of changes; above, they are joined into one.
MAX_LAYERS = 8


@dataclass(frozen=True)
class ItemTable:
    """Layers, oldest first: `blocks[0]` is the night's. `head` and `deleted` are the newest.

    `returned_R2` (R, 2), sorted: a former ordinal, and one that its id got later.
    """

    blocks: tuple[ItemBlock, ...]
    head: Mapping[int, Item]
    deleted: Ordinals
    returned_R2: NDArray[np.int64]

    @classmethod
    def of(cls, items: Iterable[Item] = ()) -> ItemTable:
        """A table of these items; raises ValueError when ordinals repeat."""
        return cls.of_block(ItemBlock.of(list(items)))

    @classmethod
    def of_block(cls, block: ItemBlock) -> ItemTable:
        """The night's items, unchanged."""
        return cls((block,), {}, np.empty(0, np.int64), np.unique(block.returned_R2, axis=0))

    def get(self, ordinal: int) -> Item | None:
        """The item as it is now; None when unknown or deleted. A few microseconds."""
        head = self.head.get(ordinal)
        if head is not None:
            return head
        place = int(self.deleted.searchsorted(ordinal))
        if place < len(self.deleted) and self.deleted[place] == ordinal:
            return None
        for block in reversed(self.blocks):
            row = block.row_of(ordinal)
            if row is not None:
                return block.item(row)
        return None

    def get_many(self, ordinals: Ordinals | Sequence[int]) -> list[Item | None]:
        """`get` for each, in order."""
        if not self.head and not len(self.deleted) and len(self.blocks) == 1:
            return self.blocks[0].items(np.asarray(ordinals, np.int64))
        return [self.get(int(ordinal)) for ordinal in ordinals]

    def cards(self, ordinals: Ordinals) -> list[Card | None]:
        """What a list shows of each, in order; None when unknown or deleted."""
        if not self.head and not len(self.deleted) and len(self.blocks) == 1:
            return self.blocks[0].cards(ordinals)
        return [None if item is None else item.card for item in self.get_many(ordinals)]

    @property
    def ordinal_span(self) -> int:
        """One more than the largest ordinal of any layer; the length of `matching`'s mask."""
        ends = [int(block.ordinals[-1]) + 1 for block in self.blocks if len(block)]
        return max([*ends, *(ordinal + 1 for ordinal in self.head)], default=0)

    def matching(
        self, category: str | None = None, attributes: Mapping[str, Wanted] | None = None
    ) -> NDArray[np.bool_]:
        """A mask over ordinals, (ordinal_span,): available items of that category (any when None)
        whose attributes equal each value asked for (one of them where it is a tuple), or have it as
        a member where they are lists.

        1 equals 1.0; true, 1 and "1" differ. This is `search`'s `eligible`.
        """
        wanted = attributes or {}
        mask = np.zeros(self.ordinal_span, dtype=np.bool_)
        for block in self.blocks:
            mask[block.ordinals] = block.matching(category, wanted)
        for ordinal, item in self.head.items():
            mask[ordinal] = item.matches(category, wanted)
        mask[self.deleted[self.deleted < len(mask)]] = False
        return mask

    def category_index(self, ordinals: Ordinals, names: Mapping[str, int]) -> NDArray[np.int64]:
        """What `names` says of the category of each of these sorted ordinals, (N,): -1 where it
        says nothing, for items without a category and for unknown ones."""
        index = np.full(len(ordinals), -1, np.int64)
        for block in self.blocks:
            here = in_sorted(ordinals, block.ordinals)
            rows = np.searchsorted(block.ordinals, ordinals[here])
            index[here] = block.category_index(rows, names)
        changed = sorted_ordinals(self.head.keys())
        changed = changed[in_sorted(changed, ordinals)]
        for place, ordinal in zip(
            np.searchsorted(ordinals, changed), changed.tolist(), strict=True
        ):
            category = self.head[ordinal].category
            index[place] = -1 if category is None else names.get(category, -1)
        return index

    def live_ordinals(self) -> Ordinals:
        """Ordinals of all items that are available, sorted."""
        return np.flatnonzero(self.matching()).astype(np.int64)

    def with_returned(self, ordinals: Ordinals) -> Ordinals:
        """Sorted `ordinals`, and those that the same ids have got since.

        An id that is deleted and put again is a new item to the model, but whoever hid, disliked or
        saw it under its old ordinal is not shown it under the new one.
        """
        if not len(self.returned_R2) or not len(ordinals):
            return ordinals
        known_R = in_sorted(self.returned_R2[:, 0], ordinals)
        return union_sorted(ordinals, np.unique(self.returned_R2[known_R, 1]))

    def newest_lives(self, ordinals: Ordinals) -> Ordinals:
        """For each ordinal the one that its id has now, or had last: (N,), in the given order."""
        if not len(self.returned_R2) or not len(ordinals):
            return ordinals
        rows = np.searchsorted(self.returned_R2[:, 0], ordinals, side="right") - 1
        last_N2 = self.returned_R2[rows]
        newest: Ordinals = np.where(last_N2[:, 0] == ordinals, last_N2[:, 1], ordinals)
        return newest

    def event_counts(self) -> NDArray[np.int64]:
        """Events of each item at the generation's watermark, by ordinal: (ordinal_span,)."""
        counts = np.zeros(self.ordinal_span, dtype=np.int64)
        night = self.blocks[0]
        counts[night.ordinals] = night.event_counts
        return counts

    def titles(self, most: int) -> list[str]:
        """Titles of at most so many of the night's items, evenly taken."""
        return self.blocks[0].titles(most)

    def published_ms(self, ordinals: Ordinals) -> NDArray[np.int64]:
        """When each of these sorted ordinals was published, -1 where nobody says: (N,)."""
        night, *later = self.blocks
        times = night.published_at(ordinals)
        for block in later:
            here = block.rows.has(ordinals)
            times[here] = block.published_at(ordinals[here])
        if not self.head:
            return times
        changed = sorted_ordinals(self.head.keys())
        changed = changed[in_sorted(changed, ordinals)]
        for place, ordinal in zip(
            np.searchsorted(ordinals, changed), changed.tolist(), strict=True
        ):
            published = self.head[ordinal].published_at_ms
            times[place] = -1 if published is None else published
        return times

    def newest(self, as_of_ms: int, count: int) -> Ordinals:
        """Ordinals, ascending, of the items published last and not after `as_of_ms`: at least
        `count` where there are as many, also some that changed since or are gone."""
        found = [np.array([o for o, item in self.head.items() if item.published_at_ms], np.int64)]
        for block in self.blocks:
            rows = block.newest_first
            first = int(np.searchsorted(block.newest_ms, -as_of_ms))
            found.append(block.ordinals[rows[first : first + count]])
        return np.unique(np.concatenate(found))

    def with_changes(self, puts: Iterable[Item] = (), deletes: Iterable[int] = ()) -> ItemTable:
        """A new table: `deletes` are gone, then `puts` are new or replace their ordinal's item."""
        gone, new = set(deletes), {item.ordinal: item for item in puts}
        head = {ordinal: item for ordinal, item in self.head.items() if ordinal not in gone}
        head.update(new)
        dead = union_sorted(self.deleted, sorted_ordinals(gone))
        dead = dead[~in_sorted(dead, sorted_ordinals(new.keys()))]
        returned = [(o, item.ordinal) for item in new.values() for o in item.former_ordinals]
        returned_R2 = self.returned_R2
        if returned:
            added_R2 = np.array(returned, dtype=np.int64)
            returned_R2 = np.unique(np.concatenate([returned_R2, added_R2]), axis=0)
        changed = replace(self, head=head, deleted=dead, returned_R2=returned_R2)
        return changed._seal() if len(head) > SEAL_AT else changed

    def warm(self, attribute_names: Iterable[str] = ()) -> None:
        """Builds the indexes of categories and of these attributes ahead of the first request."""
        names = list(attribute_names)
        for block in self.blocks:
            block.warm(names)

    def _seal(self) -> ItemTable:
        blocks = (*self.blocks, ItemBlock.of(list(self.head.values())))
        if len(blocks) > MAX_LAYERS:
            blocks = (blocks[0], newest_rows(blocks[1:]))
        return replace(self, blocks=blocks, head={})


def write_items(directory: Path, items: Iterable[Item]) -> int:
    """Writes items.parquet atomically, sorted by ordinal; returns the number of rows.

    Raises ValueError for repeated or negative ordinals and attributes that are not a JSON object.
    """
    rows, parts = map(_checked, items), [SCHEMA.empty_table()]
    while part := list(islice(rows, PART)):
        parts.append(table_of(part))
    block = ItemBlock(pa.concat_tables(parts))
    del parts  # the block has its own copy
    with whole_file(directory / ITEMS_NAME) as temporary:
        pq.write_table(block.table(), temporary, compression="zstd")
    return len(block)


def _checked(item: Item) -> Item:
    """With canonical attributes, for the attribute index looks for a name's bytes before it
    parses."""
    if item.ordinal < 0:
        raise ValueError(f"item {item.item_id!r} has the negative ordinal {item.ordinal}")
    attributes = orjson.loads(item.attributes_json)
    if not isinstance(attributes, dict):
        raise ValueError(f"attributes of item {item.item_id!r} must be a JSON object")
    canonical = attributes_json(attributes)
    return item if canonical == item.attributes_json else replace(item, attributes_json=canonical)


def read_items(directory: Path) -> ItemTable:
    """Reads items.parquet. Raises MissingArtifact, CorruptArtifact (unreadable, another schema)."""
    path = directory / ITEMS_NAME
    if not path.is_file():
        raise MissingArtifact(path)
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CorruptArtifact(path, expected="a Parquet file", actual=str(error)) from error
    table = _of_today(table)
    if not table.schema.equals(SCHEMA):
        raise CorruptArtifact(path, expected=SCHEMA.to_string(), actual=table.schema.to_string())
    try:
        return ItemTable.of_block(ItemBlock(table))
    except ValueError as error:
        raise CorruptArtifact(path, expected="ordinals once each", actual=str(error)) from error


def _of_today(table: pa.Table) -> pa.Table:
    """Format 1 had neither of the last two columns: nothing was withdrawn, nothing had returned."""
    if table.schema.equals(pa.schema(list(SCHEMA)[:-2])):
        available = pa.array([True] * len(table), pa.bool_())
        returned = pa.nulls(len(table), SCHEMA.field("former_ordinals").type)
        table = table.append_column(SCHEMA.field("available"), available)
        table = table.append_column(SCHEMA.field("former_ordinals"), returned)
    return table
