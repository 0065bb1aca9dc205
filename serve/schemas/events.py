"""What users did: the bodies of POST /v1/events, and events that come inline."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from serve.schemas.fields import Identifier, Moment, StrictBody, Text
from sql.event import MAX_RATING, MAX_SURFACE_CHARACTERS

MAX_EVENTS = 500


class _InlineEvent(StrictBody):
    event_id: Identifier | None = Field(
        None, description="Yours, unique per user: a retry with the same id is harmless."
    )
    occurred_at: Moment | None = Field(None, description="RFC 3339 with zone; default now.")
    surface: Annotated[str, Field(max_length=MAX_SURFACE_CHARACTERS)] | None = Field(
        None, description="Where it happened: home, search, mail."
    )
    request_id: Identifier | None = Field(
        None, description="Of the recommendation that led to this event."
    )


class InlineItem(_InlineEvent):
    """Someone did something with an item."""

    kind: Literal["view", "click", "favourite", "purchase", "dislike", "hide"]
    item_id: Identifier


class InlineRating(_InlineEvent):
    """Someone rated an item; rating it again replaces the first rating."""

    kind: Literal["rating"]
    item_id: Identifier
    value: float = Field(ge=0, le=MAX_RATING, allow_inf_nan=False)


class InlineSearch(_InlineEvent):
    """Someone searched: the text moves the user vector."""

    kind: Literal["search"]
    text: Text


class InlineComment(_InlineEvent):
    """Someone wrote about an item: the text moves the user vector."""

    kind: Literal["comment"]
    item_id: Identifier | None = None
    text: Text


class InlineUndo(_InlineEvent):
    """Takes back exactly one event of the same log."""

    kind: Literal["undo"]
    undoes: Identifier = Field(description="event_id of the event to take back")


InlineEvent = Annotated[
    InlineItem | InlineRating | InlineSearch | InlineComment | InlineUndo,
    Field(discriminator="kind"),
]


class ItemEvent(InlineItem):
    """The user did something with an item."""

    user_id: Identifier


class RatingEvent(InlineRating):
    """The user rated an item; rating it again replaces the first rating."""

    user_id: Identifier


class SearchEvent(InlineSearch):
    """The user searched: the text moves the user vector."""

    user_id: Identifier


class CommentEvent(InlineComment):
    """The user wrote about an item: the text moves the user vector."""

    user_id: Identifier


class UndoEvent(InlineUndo):
    """Takes back exactly one event of the same user."""

    user_id: Identifier


Event = Annotated[
    ItemEvent | RatingEvent | SearchEvent | CommentEvent | UndoEvent, Field(discriminator="kind")
]


class EventBatch(StrictBody):
    """Up to 500 events, stored all together or not at all."""

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


def _batch_or_single(body: Any) -> str:
    is_batch = isinstance(body, EventBatch) or (isinstance(body, dict) and "events" in body)
    return "batch" if is_batch else "single"


EventsBody = Annotated[
    Annotated[EventBatch, Tag("batch")] | Annotated[Event, Tag("single")],
    Discriminator(_batch_or_single),
]


class StoredEventAnswer(BaseModel):
    """Where one event of the request lies in its user's log."""

    event_id: str
    user_id: str
    user_seq: int
    duplicate: bool


class EventsAnswer(BaseModel):
    """Acknowledged: durable, and in force for the next recommendation."""

    events: list[StoredEventAnswer]
    request_id: str
