"""What the API refuses, an ingestion rejects, and the other way round: one set of rules."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from infra.ingest.columns import Columns
from infra.ingest.rows import EventIds, EventRow, ItemRow, to_event, to_item
from serve.schemas.events import Event
from serve.schemas.items import ItemBodyWithId
from sql.item import MAX_VERSION

API_EVENT: TypeAdapter[Any] = TypeAdapter(Event)
CLICK = {"kind": "click", "user_id": "u", "item_id": "i", "occurred_at": "2024-01-01T00:00:00Z"}
SEARCH = {k: v for k, v in CLICK.items() if k != "item_id"} | {"kind": "search"}
ITEM = {"item_id": "i", "title": "t"}


def is_taken(model: TypeAdapter[Any], row: dict[str, Any]) -> bool:
    try:
        model.validate_python(row)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("row", "accepted"),
    [
        (CLICK, True),
        (CLICK | {"value": 3.0}, False),
        (CLICK | {"text": "x"}, False),
        (CLICK | {"kind": "rating", "value": 5.0}, True),
        (CLICK | {"kind": "rating", "value": 5.1}, False),
        (CLICK | {"kind": "rating"}, False),
        (SEARCH | {"text": "x" * 5_000}, True),
        (SEARCH | {"text": "x" * 5_001}, False),
        (CLICK | {"kind": "comment", "text": "x" * 5_001}, False),
        (SEARCH | {"text": "x", "item_id": "i"}, False),
        (CLICK | {"surface": "s" * 100}, True),
        (CLICK | {"surface": "s" * 101}, False),
        (CLICK | {"user_id": "u" * 201}, False),
        (CLICK | {"undoes": "e"}, False),
    ],
)
def test_an_event(row: dict[str, Any], accepted: bool) -> None:
    assert is_taken(API_EVENT, row) is accepted
    found = to_event(1, row, Columns.parse(), EventIds())
    assert isinstance(found, EventRow) is accepted, found


@pytest.mark.parametrize(
    ("row", "accepted"),
    [
        (ITEM | {"version": 0, "attributes": {"a": ["b"], "n": 1}}, True),
        (ITEM | {"version": -1}, False),
        (ITEM | {"version": MAX_VERSION}, True),
        (ITEM | {"version": MAX_VERSION + 1}, False),
        (ITEM | {"title": "x" * 501}, False),
        (ITEM | {"text": "x" * 20_001}, False),
        (ITEM | {"category": "x" * 201}, False),
        (ITEM | {"attributes": {str(n): 1 for n in range(51)}}, False),
        (ITEM | {"attributes": ["a"]}, False),
        (ITEM | {"attributes": "red"}, False),
    ],
)
def test_an_item(row: dict[str, Any], accepted: bool) -> None:
    assert is_taken(TypeAdapter(ItemBodyWithId), row) is accepted
    found = to_item(1, row, Columns.parse())
    assert isinstance(found, ItemRow) is accepted, found
