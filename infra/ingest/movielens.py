"""MovieLens as rows of a catalog and of a history, the same as if they came from files."""

from collections.abc import Iterator

from infra.datasets.movielens import MovieLens
from infra.ingest.rows import EventIds, EventRow, ItemRow, make_put
from sql.catalog import ItemBody
from sql.events import EventKind, NewEvent


def movielens_items(data: MovieLens) -> Iterator[ItemRow]:
    """Films, in the order of the file."""
    for row, item in enumerate(data.items, start=1):
        body = ItemBody(
            title=item.title,
            text=item.text,
            category=item.category,
            attributes=dict(item.attributes),
        )
        yield ItemRow(row, make_put(item.item_id, body, None))


def movielens_events(data: MovieLens) -> list[EventRow]:
    """Ratings, in order of time."""
    ids = EventIds()
    return [
        EventRow(
            row,
            NewEvent(
                user_id=event.user_id,
                event_id=ids.of(event.user_id, event.item_id, event.value, event.occurred_at_ms),
                kind=EventKind(event.kind),
                item_id=event.item_id,
                value=event.value,
                occurred_at_ms=event.occurred_at_ms,
            ),
        )
        for row, event in enumerate(data.events, start=1)
    ]
