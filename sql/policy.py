"""What editors decide: pins, boosts, and what counts as seen. Bodies only; `policies` stores them.

Unknown fields are refused, so that a typo is not lost. Times are ms since 1970 UTC and are judged
at a request's `as_of`: in force from `starts_at_ms` on, until before `ends_at_ms`.
"""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from pydantic.types import AllowInfNan, Strict

from sql.event import MAX_TIME_MS
from sql.ids import ID_ACCEPTED, is_id, is_storable
from sql.item import MAX_ATTRIBUTE_CHARACTERS, MAX_ATTRIBUTE_INT, MAX_CATEGORY_CHARACTERS

MAX_POLICIES = 1_000
MAX_POSITION = 100
MAX_WEIGHT = 1.0
MAX_BUY_AGAIN_DAYS = 36_500
DAY_MS = 86_400_000


def _an_id(value: str) -> str:
    if not is_id(value):
        raise ValueError(ID_ACCEPTED)
    return value


def _stored(value: str) -> str:
    if not is_storable(value):
        raise ValueError("no NUL and no lone surrogate")
    return value


_ItemId = Annotated[str, AfterValidator(_an_id)]
_Category = Annotated[str, Field(max_length=MAX_CATEGORY_CHARACTERS), AfterValidator(_stored)]
_Word = Annotated[str, Field(max_length=MAX_ATTRIBUTE_CHARACTERS), AfterValidator(_stored)]
_Time = Annotated[int, Field(ge=0, le=MAX_TIME_MS)]
SeenKind = Literal["view", "click", "rating", "favourite", "purchase"]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Timed(_Body):
    starts_at_ms: _Time | None = None
    """None: since ever."""
    ends_at_ms: _Time | None = None
    """None: until it is deleted."""

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        starts, ends = self.starts_at_ms, self.ends_at_ms
        if starts is not None and ends is not None and ends <= starts:
            raise ValueError("ends_at must be after starts_at")
        return self

    def in_force(self, as_of_ms: int) -> bool:
        """Whether it counts at that time."""
        started = self.starts_at_ms is None or self.starts_at_ms <= as_of_ms
        return started and (self.ends_at_ms is None or as_of_ms < self.ends_at_ms)


class PinPolicy(_Timed):
    """An item at a place of the list, where the user may be shown it at all."""

    kind: Literal["pin"] = "pin"
    item_id: _ItemId
    position: int = Field(ge=1, le=MAX_POSITION)
    """From 1. Pins of one position follow each other by `policy_id`."""
    category: _Category | None = None
    """Only in lists filtered by it; None: in every list."""


class AttributeIs(_Body):
    """An attribute with a value: the filter of a request."""

    name: _Word
    value: (
        Annotated[bool, Strict()]
        | Annotated[int, Strict(), Field(ge=-MAX_ATTRIBUTE_INT, le=MAX_ATTRIBUTE_INT)]
        | Annotated[float, Strict(), AllowInfNan(False)]
        | _Word
    )


class BoostPolicy(_Timed):
    """`weight` is added to the score of an item, of a category, or of an attribute's value.

    Added, not multiplied: scores are cosines, and a factor above 1 would push an item with a
    negative one down. The boosts of one item add up and are cut to -1..1.
    """

    kind: Literal["boost"] = "boost"
    weight: float = Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)
    item_id: _ItemId | None = None
    category: _Category | None = None
    attribute: AttributeIs | None = None

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        targets = (self.item_id, self.category, self.attribute)
        if sum(target is not None for target in targets) != 1:
            raise ValueError("exactly one of item_id, category and attribute")
        return self


class SeenPolicy(_Body):
    """What counts as seen in a category, and when what was bought may be shown again.

    Of two for one category the one that was written last counts.
    """

    kind: Literal["seen"] = "seen"
    category: _Category = ""
    """"": every category without a policy of its own."""
    kinds: tuple[SeenKind, ...] = ("view", "click", "rating", "favourite", "purchase")
    """An item is seen by a user who has an event of one of them on it; empty: nothing is."""
    buy_again_after_days: int | None = Field(default=None, ge=0, le=MAX_BUY_AGAIN_DAYS)
    """A bought item may be shown again so many days after its last purchase, whatever else was seen
    of it. None: never again; 0: at once."""

    @model_validator(mode="after")
    def _no_kind_twice(self) -> Self:
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError("each kind once")
        return self


PolicyBody = Annotated[PinPolicy | BoostPolicy | SeenPolicy, Field(discriminator="kind")]
POLICY: TypeAdapter[PinPolicy | BoostPolicy | SeenPolicy] = TypeAdapter(PolicyBody)


class Policy(NamedTuple):
    """A policy as it is stored. `policy_seq`: the change that made it what it is."""

    policy_id: str
    body: PinPolicy | BoostPolicy | SeenPolicy
    policy_seq: int
    at_ms: int
