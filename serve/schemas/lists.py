"""Lists: for users, for inline events, like an item, for a text; and why an item is in one."""

from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, Discriminator, Field, Tag, model_validator

from serve.schemas.events import InlineEvent
from serve.schemas.fields import (
    MAX_EXCLUDE,
    MAX_K,
    MAX_OFFSET,
    AttributeName,
    AttributeValue,
    Identifier,
    Moment,
    StrictBody,
    Text,
)

MAX_INLINE_EVENTS = 200
DIVERSITY = "0: the best first; towards 1, what is like an item above it comes later"
MAX_USERS = 100
MAX_LISTED, MAX_EXPLAINED = 5_000, 1_000
"""Items of one answer, and explained ones: what one request may cost the others."""


class _Filters(StrictBody):
    k: int = Field(20, ge=1, le=MAX_K)
    offset: int = Field(0, ge=0, le=MAX_OFFSET)
    category: str | None = Field(None, max_length=200)
    attributes: dict[AttributeName, AttributeValue] = Field(default_factory=dict, max_length=10)
    exclude: list[Identifier] = Field(default_factory=list, max_length=MAX_EXCLUDE)
    exclude_seen: bool = True
    as_of: Moment | None = None
    explain: bool = Field(False, description="say of each item why it is there")
    diversity: float = Field(0.0, ge=0, le=1, description=DIVERSITY)


class RecommendUsersBody(_Filters):
    """Lists for many users at once, all with the same filters."""

    users: list[Identifier] = Field(min_length=1, max_length=MAX_USERS)

    @model_validator(mode="after")
    def _of_bounded_length(self) -> Self:
        most = MAX_EXPLAINED if self.explain else MAX_LISTED
        if len(self.users) * self.k > most:
            raise ValueError(
                f"users times k, {len(self.users)} x {self.k}, is at most {MAX_LISTED:,} "
                f"({MAX_EXPLAINED:,} with explain)"
            )
        return self


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
    text: str | None = Field(None, description="of a search or comment; for the scope `admin`")
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


class ShardsAnswer(BaseModel):
    """Of how many shards a list was made."""

    answered: int
    of: int
    missing: list[int] = Field(description="shards whose items are not in the list")


SHARDS = Field(None, description="with `shard_gone`: what answered; null where all did")


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
    shards: ShardsAnswer | None = SHARDS


class RecommendManyAnswer(BaseModel):
    """One answer a user, in the order asked; one for events that came with the request."""

    results: list[RecommendationAnswer]
    request_id: str


class SimilarAnswer(BaseModel):
    """Items nearest to an item."""

    item_id: str
    items: list[ScoredItem]
    generation: str
    catalog_seq: int
    request_id: str
    degraded: list[str]
    shards: ShardsAnswer | None = SHARDS


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
    shards: ShardsAnswer | None = SHARDS
