"""A user: the session in short, the log, the receipt of an erasure."""

from typing import Any

from pydantic import AwareDatetime, BaseModel, Field


class InterestedCategory(BaseModel):
    """A category of the items nearest to the user vector."""

    category: str
    share: float = Field(description="of the 100 nearest items")


class InterestingTerm(BaseModel):
    """A term of their titles."""

    term: str
    weight: float = Field(description="tf-idf: more often than in the catalog")


class UserInterests(BaseModel):
    """What the user is interested in, in words; the largest first."""

    categories: list[InterestedCategory]
    terms: list[InterestingTerm]


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
    interests: UserInterests | None = Field(description="null while there is no user vector")
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
