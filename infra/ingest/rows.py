"""A row of a file becomes an item or an event, by the rules of the API, or reasons why not."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from infra.ingest.columns import EVENT_FIELDS, ITEM_FIELDS, AttributeColumn, Columns
from infra.ingest.values import as_bool, as_int, as_list, as_number, as_text, as_time_ms
from ray_jobs.encoders.item_text import compose, text_digest
from sql.catalog import ItemBody, ItemPut
from sql.event import shape_problems
from sql.events import EventKind, NewEvent
from sql.ids import BadInput, check_id
from sql.item import MAX_VERSION

EARLIEST_PUBLISHED_MS = -2_208_988_800_000  # 1900-01-01

Reasons = tuple[BadInput, ...]
_PLAIN = AttributeColumn(columns=(), separator=None, type="text")
_API_NAMES = {"published_at_ms": "published_at", "occurred_at_ms": "occurred_at"}


@dataclass(frozen=True, slots=True)
class ItemRow:
    """An item, and the row of the file it came from."""

    row: int
    put: ItemPut


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event, and the row of the file it came from."""

    row: int
    event: NewEvent


class EventIds:
    """Ids for events that have none: the same file gives the same ids, so it may be sent twice.

    An id is a digest of what the event says and of how many equal events came before it in the
    file: two equal views in one second stay two.
    """

    def __init__(self) -> None:
        self._seen: Counter[bytes] = Counter()

    def of(self, *facts: object) -> str:
        """The id of the next event that says `facts`."""
        said = hashlib.blake2b(repr(facts).encode("utf-8", "surrogatepass"), digest_size=16)
        number = self._seen[said.digest()]
        self._seen[said.digest()] += 1
        said.update(number.to_bytes(8, "little"))
        return f"ingest-{said.hexdigest()}"


def to_event(
    row: int, cells: Mapping[str, Any], columns: Columns, ids: EventIds
) -> EventRow | Reasons:
    """The event of one row, without asking the database anything."""
    picked = columns.pick(EVENT_FIELDS, cells)
    try:
        event = _event(picked, ids)
    except BadInput as reason:
        return (reason,)
    problems = shape_problems([event])
    if problems:
        return tuple(
            BadInput(_API_NAMES.get(p.field, p.field), p.value, p.accepted) for p in problems
        )
    return EventRow(row, event)


def _event(picked: Mapping[str, Any], ids: EventIds) -> NewEvent:
    texts = {
        name: as_text(name, picked[name])
        for name in ("user_id", "item_id", "text", "event_id", "undoes", "surface")
        if name in picked
    }
    for name in ("user_id", "kind", "occurred_at"):
        if name not in picked:
            raise BadInput(name, None, f"a value, or `--default {name}=...`")
    kind = _kind(picked["kind"])
    value = as_number("value", picked["value"]) if "value" in picked else None
    occurred_at_ms = as_time_ms("occurred_at", picked["occurred_at"])
    facts = (*(texts.get(n) for n in ("user_id", "item_id", "text", "undoes", "surface")),)
    return NewEvent(
        user_id=texts["user_id"],
        event_id=texts.get("event_id") or ids.of(kind.value, value, occurred_at_ms, *facts),
        kind=kind,
        item_id=texts.get("item_id"),
        text=texts.get("text"),
        value=value,
        undoes=texts.get("undoes"),
        occurred_at_ms=occurred_at_ms,
        surface=texts.get("surface"),
    )


def _kind(value: Any) -> EventKind:
    try:
        return EventKind(value)
    except ValueError:
        raise BadInput("kind", value, ", ".join(EventKind)) from None


def to_item(row: int, cells: Mapping[str, Any], columns: Columns) -> ItemRow | Reasons:
    """The item of one row, without its vectors."""
    picked = columns.pick(ITEM_FIELDS, cells)
    try:
        item_id = check_id("item_id", as_text("item_id", picked.get("item_id", "")))
        version = _version(picked["version"]) if "version" in picked else None
        body = ItemBody(**_body(picked, columns.pick_attributes(cells), columns))
    except BadInput as reason:
        return (reason,)
    except ValidationError as error:
        return tuple(_reason(details) for details in error.errors())
    return ItemRow(row, make_put(item_id, body, version))


def _version(value: Any) -> int:
    version = as_int("version", value)
    if not 0 <= version <= MAX_VERSION:
        raise BadInput("version", value, f"0 to {MAX_VERSION}")
    return version


def make_put(item_id: str, body: ItemBody, version: int | None) -> ItemPut:
    """The put of an item that has no vectors yet."""
    bert_text = compose(body.title, body.text, body.category)
    return ItemPut(item_id, body, bert_text, text_digest(bert_text), version, {})


def _body(
    picked: Mapping[str, Any], attributes: Mapping[str, Any], columns: Columns
) -> dict[str, Any]:
    body: dict[str, Any] = {
        name: as_text(name, picked[name])
        for name in ("title", "text", "category")
        if name in picked
    }
    if "published_at" in picked:
        body["published_at_ms"] = as_time_ms(
            "published_at", picked["published_at"], earliest_ms=EARLIEST_PUBLISHED_MS
        )
    if "available" in picked:
        body["available"] = as_bool("available", picked["available"])
    body["attributes"] = {
        name: _attribute(name, value, columns.attributes.get(name, _PLAIN))
        for name, value in attributes.items()
    }
    return body


def _attribute(name: str, value: Any, column: AttributeColumn) -> Any:
    field = f"attributes.{name}"
    if column.type == "int":
        return as_int(field, value)
    if column.type == "float":
        return as_number(field, value)
    if column.type == "bool":
        return as_bool(field, value)
    return as_list(value, column.separator)


def _reason(details: Any) -> BadInput:
    """One of pydantic's errors; a union's branch names are no part of the path."""
    path = [str(part) for part in details["loc"]]
    name = ".".join(path[:2]) if path and path[0] == "attributes" else ".".join(path[:1])
    return BadInput(_API_NAMES.get(name, name), details.get("input"), str(details["msg"]).lower())
