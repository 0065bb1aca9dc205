"""Columns of many items, immutable, with an index per attribute that is built when first asked.

`ItemTable` stacks these: the night's items below, the day's changes above. N = items (rows).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_jobs.shards.merge import Ordinals
from ray_jobs.shards.ordinal_rows import OrdinalRows

Scalar = str | bool | int | float
AttributeValue = Scalar | list[str]
Wanted = Scalar | tuple[Scalar, ...]
"""What a filter asks of an attribute: a value, or any of several."""

# Attribute names whose index is kept: names come from requests, so the cache needs an end.
MAX_INDEXED_ATTRIBUTES = 64

KEPT_ITEMS = 8_192
"""To read an item from its columns is ten conversions, and lists name the same ones."""

KEPT_CARDS = 16_384
"""Three conversions, and some 300 bytes each."""

SCHEMA = pa.schema(
    [
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("attributes", pa.string(), nullable=False),
        pa.field("published_at_ms", pa.int64()),
        pa.field("text_digest", pa.string(), nullable=False),
        pa.field("event_count", pa.int64(), nullable=False),
        pa.field("available", pa.bool_(), nullable=False),
        pa.field("former_ordinals", pa.list_(pa.field("item", pa.int64(), nullable=False))),
    ]
)


class Card(NamedTuple):
    """What a list shows of an item."""

    item_id: str
    title: str
    category: str | None


@dataclass(frozen=True)
class Item:
    """One item as it is shown. `attributes_json` is a JSON object; `attributes` parses it.

    `available`: False where it is withdrawn: known, but in no list. `former_ordinals`: those that
    its id had before it was deleted and put again.
    """

    ordinal: int
    item_id: str
    title: str
    category: str | None
    attributes_json: str
    published_at_ms: int | None
    text_digest: str
    event_count: int = 0
    available: bool = True
    former_ordinals: tuple[int, ...] = ()

    @property
    def card(self) -> Card:
        return Card(self.item_id, self.title, self.category)

    @cached_property
    def attributes(self) -> dict[str, AttributeValue]:
        parsed: dict[str, AttributeValue] = orjson.loads(self.attributes_json)
        return parsed

    def matches(self, category: str | None, attributes: Mapping[str, Wanted]) -> bool:
        """Whether it is available, of the category asked for (any when None), and every attribute
        matches."""
        if not self.available or (category is not None and self.category != category):
            return False
        return all(
            not wanted_keys(wanted).isdisjoint(value_keys(self.attributes.get(name)))
            for name, wanted in attributes.items()
        )


def attributes_json(attributes: Mapping[str, AttributeValue]) -> str:
    """The canonical JSON of attributes: sorted keys, no spaces, UTF-8."""
    return orjson.dumps(dict(attributes), option=orjson.OPT_SORT_KEYS).decode("utf-8")


def value_key(value: Scalar) -> tuple[str, Scalar]:
    """Equality of the filter: 1 equals 1.0, but true is not 1 and "1" is neither."""
    if isinstance(value, bool):
        return "bool", value
    return ("string", value) if isinstance(value, str) else ("number", value)


def wanted_keys(wanted: Wanted) -> set[tuple[str, Scalar]]:
    """The values of which an attribute must have one."""
    return {value_key(value) for value in (wanted if isinstance(wanted, tuple) else (wanted,))}


def value_keys(value: object) -> set[tuple[str, Scalar]]:
    """What a stored value answers to: itself, or each member of a list."""
    if isinstance(value, list):
        return {value_key(member) for member in value if isinstance(member, str | int | float)}
    if isinstance(value, str | int | float):
        return {value_key(value)}
    return set()


def table_of(items: list[Item]) -> pa.Table:
    """A row each, of SCHEMA's columns."""
    columns = {
        field.name: [
            getattr(item, "attributes_json" if field.name == "attributes" else field.name)
            for item in items
        ]
        for field in SCHEMA
    }
    return pa.table(columns, schema=SCHEMA)


class ItemBlock:
    """Rows sorted by ordinal. `table` has SCHEMA's columns; strings stay in Arrow memory."""

    def __init__(self, table: pa.Table) -> None:
        ordinals = table["ordinal"].to_numpy()
        if len(ordinals) > 1 and not bool(np.all(ordinals[1:] > ordinals[:-1])):
            order = np.argsort(ordinals, kind="stable")
            table, ordinals = table.take(order), ordinals[order]
            if not bool(np.all(ordinals[1:] > ordinals[:-1])):
                raise ValueError("ordinals must not repeat")
        self._columns = {name: _one_array(table[name]) for name in SCHEMA.names}
        self.ordinals: Ordinals = ordinals
        # Of the columns, not of self: a cycle would keep a generation that was let go in memory.
        self._kept_item = lru_cache(KEPT_ITEMS)(partial(_read_item, self._columns))
        shown = [self._columns[name] for name in Card._fields]
        self._kept_card = lru_cache(KEPT_CARDS)(partial(_read_card, shown))
        self._lock = threading.Lock()
        self._postings: OrderedDict[str, dict[tuple[str, Scalar], NDArray[np.int32]]] = (
            OrderedDict()
        )

    @classmethod
    def of(cls, items: list[Item]) -> ItemBlock:
        """A block of these items."""
        return cls(table_of(items))

    def __len__(self) -> int:
        return len(self.ordinals)

    def table(self) -> pa.Table:
        """The rows as a table of SCHEMA, sorted by ordinal."""
        return pa.table(self._columns).cast(SCHEMA)

    @property
    def withdrawn(self) -> Ordinals:
        """Ordinals of the items that are not available, sorted."""
        return self.ordinals[~self._available]

    @property
    def returned_R2(self) -> NDArray[np.int64]:
        """(R, 2): a former ordinal, and the one that its id has in this block."""
        column = self._columns["former_ordinals"]
        former_R = pc.list_flatten(column).to_numpy()
        rows_R = pc.list_parent_indices(column).to_numpy()
        return np.stack([former_R, self.ordinals[rows_R]], axis=1).astype(np.int64)

    @cached_property
    def published_ms(self) -> NDArray[np.int64]:
        """When each row was published, -1 where nobody says: (N,)."""
        times: NDArray[np.int64] = pc.fill_null(self._columns["published_at_ms"], -1).to_numpy()
        return times

    def published_at(self, ordinals: Ordinals) -> NDArray[np.int64]:
        """When each of these was published, -1 where nobody says and of those that are not here."""
        if not len(self):
            return np.full(len(ordinals), -1, np.int64)
        rows = self.rows.of(ordinals)
        times = self.published_ms.take(rows, mode="wrap")
        times[rows < 0] = -1
        return times

    @cached_property
    def newest_first(self) -> NDArray[np.intp]:
        """Rows by time of publication, without those of which nobody says when."""
        rows = np.flatnonzero(self.published_ms >= 0)
        return rows[np.argsort(-self.published_ms[rows], kind="stable")]

    @cached_property
    def newest_ms(self) -> NDArray[np.int64]:
        """Of `newest_first`, minus the times: ascending."""
        return -self.published_ms[self.newest_first]

    @property
    def event_counts(self) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = self._columns["event_count"].to_numpy()
        return counts

    def titles(self, most: int) -> list[str]:
        """Titles of at most so many rows, evenly taken."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(np.int64))
        taken: list[str] = self._columns["title"].take(rows).to_pylist()
        return taken

    def items(self, ordinals: Ordinals) -> list[Item | None]:
        """The item of each ordinal, None where it is not here."""
        rows = self.rows.of(ordinals).tolist()
        return [self._kept_item(row) if row >= 0 else None for row in rows]

    def cards(self, ordinals: Ordinals) -> list[Card | None]:
        """What a list shows of each ordinal, None where it is not here."""
        rows = self.rows.of(ordinals).tolist()
        return [self._kept_card(row) if row >= 0 else None for row in rows]

    @cached_property
    def rows(self) -> OrdinalRows:
        """The row of each ordinal."""
        return OrdinalRows(self.ordinals)

    def row_of(self, ordinal: int) -> int | None:
        row = int(np.searchsorted(self.ordinals, ordinal))
        return row if row < len(self) and int(self.ordinals[row]) == ordinal else None

    def item(self, row: int) -> Item:
        """The item in that row; those asked for lately are kept, since lists repeat items."""
        return self._kept_item(row)

    def matching(self, category: str | None, attributes: Mapping[str, Wanted]) -> NDArray[np.bool_]:
        """Rows that are available and match: (N,)."""
        matched = self._available.copy()
        if category is not None:
            matched &= self._in_category(category)
        for name, wanted in attributes.items():
            index, hit = self._index_of(name), np.zeros(len(self), dtype=np.bool_)
            for key in wanted_keys(wanted):
                rows = index.get(key)
                if rows is not None:
                    hit[rows] = True
            matched &= hit
        return matched

    def warm(self, names: list[str]) -> None:
        """Builds the indexes of these attributes now (about 3 us a row that has it)."""
        for name in names:
            self._index_of(name)
        _ = self._categories, self.newest_ms, self.rows

    @cached_property
    def _available(self) -> NDArray[np.bool_]:
        column = self._columns["available"].to_numpy(zero_copy_only=False)
        return np.asarray(column, dtype=np.bool_)

    @cached_property
    def _categories(self) -> tuple[dict[str, int], NDArray[np.int32]]:
        encoded = self._columns["category"].dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return {name: code for code, name in enumerate(encoded.dictionary.to_pylist())}, codes

    def _in_category(self, category: str) -> NDArray[np.bool_]:
        names, codes = self._categories
        return np.asarray(codes == names.get(category, -2), dtype=np.bool_)

    def category_index(self, rows: Ordinals, names: Mapping[str, int]) -> NDArray[np.int64]:
        """What `names` says of the category of each row, -1 where it says nothing: (R,)."""
        known, codes = self._categories
        index_of = np.full(len(known) + 1, -1, np.int64)  # the last is that of no category
        for name, index in names.items():
            if name in known:
                index_of[known[name]] = index
        found: NDArray[np.int64] = index_of[codes[rows]]
        return found

    def _index_of(self, name: str) -> dict[tuple[str, Scalar], NDArray[np.int32]]:
        with self._lock:
            found = self._postings.get(name)
            if found is not None:
                self._postings.move_to_end(name)
                return found
        built = self._build(name)
        with self._lock:
            self._postings[name] = built
            while len(self._postings) > MAX_INDEXED_ATTRIBUTES:
                self._postings.popitem(last=False)
        return built

    def _build(self, name: str) -> dict[tuple[str, Scalar], NDArray[np.int32]]:
        # Only rows whose JSON has the name's bytes are parsed; a value may hold them too.
        column = self._columns["attributes"]
        token = orjson.dumps(name).decode("utf-8")
        rows = np.flatnonzero(pc.match_substring(column, token).to_numpy(zero_copy_only=False))
        postings: dict[tuple[str, Scalar], list[int]] = {}
        for row, text in zip(rows.tolist(), column.take(rows).to_pylist(), strict=True):
            for key in value_keys(orjson.loads(text).get(name)):
                postings.setdefault(key, []).append(row)
        return {key: np.array(found, dtype=np.int32) for key, found in postings.items()}


def _read_item(columns: Mapping[str, pa.Array], row: int) -> Item:
    fields = {name: column[row].as_py() for name, column in columns.items()}
    fields["attributes_json"] = fields.pop("attributes")
    fields["former_ordinals"] = tuple(fields["former_ordinals"] or ())
    return Item(**fields)


def _read_card(shown: Sequence[pa.Array], row: int) -> Card:
    return Card(*[column[row].as_py() for column in shown])


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    """One contiguous array; strings with 64-bit offsets, since 2 GB of attributes happen."""
    if column.type == pa.string():
        column = column.cast(pa.large_string())
    if column.num_chunks == 0:
        return pa.array([], column.type)
    return pa.concat_arrays(column.chunks)


def newest_rows(blocks: Sequence[ItemBlock]) -> ItemBlock:
    """One block of several, oldest first: where an ordinal repeats, the last block's row stays."""
    table = pa.concat_tables([block.table() for block in blocks])
    ordinals = table["ordinal"].to_numpy()
    last = len(ordinals) - 1 - np.unique(ordinals[::-1], return_index=True)[1]
    return ItemBlock(table.take(last))
