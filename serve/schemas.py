"""The bodies of the API: what is accepted and what is answered. Unknown fields are refused."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from ray_jobs.ranking.candidates import MAX_CANDIDATES
from sql.ids import is_storable
from sql.item import MAX_VERSION

MAX_EVENTS = 500
MAX_INLINE_EVENTS = 200
MAX_ITEMS = 500
MAX_USERS = 100
MAX_K = 500
MAX_OFFSET = MAX_CANDIDATES - MAX_K
MAX_EXCLUDE = 1_000
MAX_TEXT = 5_000

Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
AttributeValue = str | bool | int | float


def typed_value(value: str) -> AttributeValue:
    """`value` of a URL or a command line: true, false, a number where it is one, else itself."""
    if value in ("true", "false"):
        return value == "true"
    for number in (int, float):
        try:
            parsed = number(value)
        except ValueError:
            continue
        if parsed == parsed and abs(parsed) != float("inf"):
            return parsed
    return value


def _storable(name: str) -> str:
    if not is_storable(name):
        raise ValueError("no NUL and no lone surrogate")
    return name


AttributeName = Annotated[str, AfterValidator(_storable)]


def _in_any_zone(at: datetime) -> datetime:
    if not 2 <= at.year <= 9998:  # the others leave the calendar in some zones
        raise ValueError("a time between the years 2 and 9998")
    return at


Moment = Annotated[AwareDatetime, AfterValidator(_in_any_zone)]


class StrictBody(BaseModel):
    """A body of a request: frozen, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _InlineEvent(StrictBody):
    event_id: Identifier | None = Field(
        None, description="Yours, unique per user: a retry with the same id is harmless."
    )
    occurred_at: Moment | None = Field(None, description="RFC 3339 with zone; default now.")
    surface: Annotated[str, Field(max_length=100)] | None = Field(
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
    value: float = Field(ge=0, le=5, allow_inf_nan=False)


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


class _Filters(StrictBody):
    k: int = Field(20, ge=1, le=MAX_K)
    offset: int = Field(0, ge=0, le=MAX_OFFSET)
    category: str | None = Field(None, max_length=200)
    attributes: dict[AttributeName, AttributeValue] = Field(default_factory=dict, max_length=10)
    exclude: list[Identifier] = Field(default_factory=list, max_length=MAX_EXCLUDE)
    exclude_seen: bool = True
    as_of: Moment | None = None
    explain: bool = Field(False, description="say of each item why it is there")


class RecommendUsersBody(_Filters):
    """Lists for many users at once, all with the same filters."""

    users: list[Identifier] = Field(min_length=1, max_length=MAX_USERS)


class RecommendEventsBody(_Filters):
    """A list for someone who is not stored: from up to 200 events, oldest first, of which nothing
    is kept."""

    events: list[InlineEvent] = Field(min_length=1, max_length=MAX_INLINE_EVENTS)


def _users_or_events(body: Any) -> str:
    is_inline = isinstance(body, RecommendEventsBody) or (
        isinstance(body, dict) and "events" in body and "users" not in body
    )
    return "inline" if is_inline else "many"


RecommendBody = Annotated[
    Annotated[RecommendUsersBody, Tag("many")] | Annotated[RecommendEventsBody, Tag("inline")],
    Discriminator(_users_or_events),
]


class NearEvent(BaseModel):
    """A past event that counts, and how near it is to the item."""

    event_id: str
    user_seq: int
    kind: str
    item_id: str | None = None
    text: str | None = None
    cosine: float


class Explanation(BaseModel):
    """Why an item is where it is."""

    parts: dict[str, float] = Field(description="what the score is made of, by name")
    source: Literal["base", "delta", "catalog"] = Field(
        description="made by the night, changed since, or in no index (it is only popular)"
    )
    nearest_events: list[NearEvent] = Field(
        description="up to 3 of the last 200 events that count, nearest first"
    )


class ScoredItem(BaseModel):
    """One item of a list, best first."""

    item_id: str
    score: float
    title: str
    category: str | None
    explanation: Explanation | None = Field(None, description="only where it was asked for")


class RecommendationAnswer(BaseModel):
    """A list, and exactly what it reflects."""

    user_id: str | None = Field(description="null for events that came with the request")
    items: list[ScoredItem]
    basis: Literal["session", "popularity"] = Field(
        description="`popularity` for users without events"
    )
    generation: str
    user_seq: int = Field(description="every event of the user up to this one is reflected")
    catalog_seq: int = Field(description="every item change up to this one is reflected")
    policy_seq: int = Field(0, description="every change of a policy up to this one is reflected")
    as_of: AwareDatetime
    request_id: str
    degraded: list[str] = Field(description="empty, or the reasons why this list is less")


class RecommendManyAnswer(BaseModel):
    """One answer a user, in the order asked; one for events that came with the request."""

    results: list[RecommendationAnswer]
    request_id: str


class ItemBodyIn(StrictBody):
    """An item as its owner describes it."""

    title: str = Field(min_length=1, max_length=500)
    text: str = Field("", max_length=20_000)
    category: str | None = Field(None, max_length=200)
    attributes: dict[str, AttributeValue | list[str]] = Field(default_factory=dict, max_length=50)
    published_at: Moment | None = None
    available: bool = Field(
        True, description="false withdraws it: in no list, until it is put with true again"
    )
    version: int | None = Field(
        None,
        ge=0,
        le=MAX_VERSION,
        description="yours; one lower than stored, or equal with another body, is 409",
    )


class ItemBodyWithId(ItemBodyIn):
    """An item with its id, for puts of many."""

    item_id: Identifier


class ItemsBody(StrictBody):
    """Up to 500 items."""

    items: list[ItemBodyWithId] = Field(min_length=1, max_length=MAX_ITEMS)


class ItemChangeAnswer(BaseModel):
    """In force for the next recommendation."""

    item_id: str
    outcome: Literal["created", "updated", "unchanged", "deleted"]
    catalog_seq: int
    version: int | None


class ItemsAnswer(BaseModel):
    """One line an item, in the order given."""

    items: list[ItemChangeAnswer]
    request_id: str


class ItemAnswer(BaseModel):
    """An item as it is now."""

    item_id: str
    title: str
    text: str
    category: str | None
    attributes: dict[str, Any]
    published_at: AwareDatetime | None
    available: bool = Field(description="false: withdrawn, in no list")
    version: int | None
    catalog_seq: int


class SimilarAnswer(BaseModel):
    """Items nearest to an item."""

    item_id: str
    items: list[ScoredItem]
    generation: str
    catalog_seq: int
    request_id: str
    degraded: list[str]


class SearchBody(StrictBody):
    """Items for a text; personalised when a user is given."""

    text: Text
    user_id: Identifier | None = None
    k: int = Field(20, ge=1, le=MAX_K)
    category: str | None = Field(None, max_length=200)
    attributes: dict[AttributeName, AttributeValue] = Field(default_factory=dict, max_length=10)
    exclude: list[Identifier] = Field(default_factory=list, max_length=MAX_EXCLUDE)
    exclude_seen: bool = False


class SearchAnswer(BaseModel):
    """Items for a text, best first."""

    items: list[ScoredItem]
    personalised: bool
    generation: str
    user_seq: int
    catalog_seq: int
    request_id: str
    degraded: list[str]


class UserAnswer(BaseModel):
    """A user's session in short."""

    user_id: str
    user_seq: int
    generation: str | None
    steps: int = Field(description="effective events in the fold")
    events_by_kind: dict[str, int]
    undone: int
    seen_items: int
    excluded_items: int
    last_event_at: AwareDatetime | None
    vector: list[float] | None = Field(None, description="the unit user vector, where asked for")


class UserEventsAnswer(BaseModel):
    """A page of a user's log, oldest first."""

    user_id: str
    events: list[dict[str, Any]]
    next_after: int | None = Field(description="pass as `after` for the next page")


class ErasureAnswer(BaseModel):
    """The receipt of an erasure. It does not say who was erased: nothing does any more."""

    erasure_id: str
    erased_at: AwareDatetime = Field(description="events that happened until then are refused")
    completed_at: AwareDatetime | None = Field(
        description="when every stored copy had been rewritten; null until then"
    )
    erased: dict[str, int] = Field(description="rows removed, by table")
    to_rewrite: list[str] = Field(description="what the job is still to rewrite")
    cannot_rewrite: list[str] = Field(description="what no job takes back, and when it goes")
    generations: list[str] = Field(
        description="kept generations that may have been trained on the user's events"
    )
    request_id: str


class ProblemField(BaseModel):
    """One field that was refused."""

    field: str
    value: str | int | float | bool | None
    accepted: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemField]
    hint: str | None = None


class LiveAnswer(BaseModel):
    """The live pointer and who moved it last."""

    generation: str
    previous: str | None
    flip: int
    who: str
    why: str
    at: AwareDatetime
    hold: bool


class LoadedAnswer(BaseModel):
    """A generation in this replica's memory."""

    generation: str
    items: int
    shards: int
    generation_catalog_seq: int
    catalog_seq: int
    delta_items: int
    masked_items: int
    unembedded_items: int


class ParityAnswer(BaseModel):
    """How far the day's user vectors are from the night's, when it was last measured."""

    max_abs_diff: float | None = Field(description="of a coordinate of a unit vector; at most 1e-5")
    users: int
    canary_min_cosine: float | None = Field(
        description="of a text embedded again to its stored vector; at least 0.9999"
    )
    canary_texts: int
    at: AwareDatetime


class ReplicaAnswer(BaseModel):
    """A replica that holds a fresh lease."""

    replica_id: str
    ready: list[str]
    heartbeat_age_ms: int


class StatusAnswer(BaseModel):
    """What an on-call looks at first."""

    live: LiveAnswer | None
    catalog_seq: int
    events: int
    users: int
    replica: str
    loaded: list[LoadedAnswer]
    refused: dict[str, str] = Field(description="generations this replica would not load, and why")
    replicas: list[ReplicaAnswer]
    write_behind_dropped: int
    keys: Literal["none", "required"] = Field(
        description="`none`: no API key was ever made, everything is answered, on this machine only"
    )
    parity: ParityAnswer | None = Field(None, description="of the live generation")
