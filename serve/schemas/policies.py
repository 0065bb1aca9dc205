"""Bodies of the policies and of what trends: what is accepted and what is answered.

The bounds of a policy are those of `sql.policy`; here its times are RFC 3339.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field

from serve.schemas.fields import Moment, StrictBody
from serve.schemas.lists import ScoredItem
from sql.policy import AttributeIs, SeenKind


class _Timed(StrictBody):
    starts_at: Moment | None = Field(None, description="RFC 3339 with zone; default since ever.")
    ends_at: Moment | None = Field(None, description="default until it is deleted")


class PinBody(_Timed):
    """An item at a place of the list, for every user who may be shown it at all."""

    kind: Literal["pin"]
    item_id: str
    position: int = Field(description="1 to 100")
    category: str | None = Field(
        None, description="only in lists that are filtered by it; default in all"
    )


class BoostBody(_Timed):
    """`weight` is added to the score of the items of one target."""

    kind: Literal["boost"]
    weight: float = Field(description="-1 to 1; scores are cosines")
    item_id: str | None = None
    category: str | None = None
    attribute: AttributeIs | None = None


class SeenBody(StrictBody):
    """What counts as seen in a category."""

    kind: Literal["seen"]
    category: str = Field("", description="empty: every category without a policy of its own")
    kinds: list[SeenKind] = Field(
        ["view", "click", "rating", "favourite", "purchase"], max_length=5
    )
    buy_again_after_days: int | None = Field(
        None, description="a bought item is shown again after so many days; default never"
    )


PolicyIn = Annotated[PinBody | BoostBody | SeenBody, Field(discriminator="kind")]


class PolicyAnswer(BaseModel):
    """A policy as it is now. `policy_seq`: the change that made it so."""

    policy_id: str
    policy: PolicyIn
    policy_seq: int
    changed_at: AwareDatetime


class PoliciesAnswer(BaseModel):
    """All policies, by id, as of `policy_seq`."""

    policies: list[PolicyAnswer]
    policy_seq: int


class PolicyChangeAnswer(BaseModel):
    """Acknowledged: in force for every recommendation that is asked for from now on."""

    policy_id: str
    outcome: Literal["created", "updated", "unchanged", "deleted"]
    policy_seq: int


class TrendingAnswer(BaseModel):
    """What trends, the most unusual first."""

    items: list[ScoredItem]
    hours: int
    as_of: AwareDatetime
    activity_age_ms: int = Field(description="every event older than this is counted")
    generation: str
    catalog_seq: int
    request_id: str
    degraded: list[str]
