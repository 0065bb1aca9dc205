"""What an item is, and what a change of the catalog is."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic.types import AllowInfNan, Strict

from sql.event import MAX_TIME_MS
from sql.ids import is_storable

MAX_TITLE_CHARACTERS = 500
MAX_TEXT_CHARACTERS = 20_000
MAX_CATEGORY_CHARACTERS = 200
MAX_ATTRIBUTES = 50
MAX_ATTRIBUTE_CHARACTERS = 2_000
MAX_ATTRIBUTE_LIST = 200
MAX_VERSION = 2**62
MAX_ATTRIBUTE_INT = 2**53  # what JSON readers agree on

_Word = Annotated[str, StringConstraints(max_length=MAX_ATTRIBUTE_CHARACTERS)]
Attribute = (
    Annotated[bool, Strict()]
    | Annotated[int, Strict(), Field(ge=-MAX_ATTRIBUTE_INT, le=MAX_ATTRIBUTE_INT)]
    | Annotated[float, Strict(), AllowInfNan(False)]
    | _Word
    | Annotated[list[_Word], Field(max_length=MAX_ATTRIBUTE_LIST)]
)


class ItemBody(BaseModel):
    """What a client says of an item. Unknown fields are refused, so that a typo is not lost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1, max_length=MAX_TITLE_CHARACTERS)
    """Shown, and read by BERT."""
    text: str = Field(default="", max_length=MAX_TEXT_CHARACTERS)
    """Description, read by BERT."""
    category: str | None = Field(default=None, max_length=MAX_CATEGORY_CHARACTERS)
    """Filter of the recommendations, and read by BERT."""
    attributes: dict[_Word, Attribute] = Field(default_factory=dict, max_length=MAX_ATTRIBUTES)
    """Filters: a name and a string, number, truth value or list of strings."""
    published_at_ms: int | None = Field(default=None, ge=-MAX_TIME_MS, le=MAX_TIME_MS)
    """When it appeared, ms since 1970 UTC (negative before)."""
    available: bool = True
    """False: withdrawn. In no list, but still an item: it keeps its ordinal and what was learned
    of it, may be read and acted on, and comes back with the next put."""

    @field_validator("title", "text", "category")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        if value is not None and not is_storable(value):
            raise ValueError("no NUL and no lone surrogate")
        return value

    @field_validator("attributes")
    @classmethod
    def _storable_attributes(cls, value: dict[str, Attribute]) -> dict[str, Attribute]:
        for name, attribute in value.items():
            words = attribute if isinstance(attribute, list) else [attribute]
            if not all(is_storable(word) for word in (name, *words) if isinstance(word, str)):
                raise ValueError("no NUL and no lone surrogate")
            if isinstance(attribute, float) and not math.isfinite(attribute):
                raise ValueError("a finite number")
        return value

    def canonical(self) -> str:
        """One JSON text for one body (sorted keys): two bodies are equal iff these are.

        `available` is written where it is false only: bodies stored before there was such a field
        stay equal to themselves.
        """
        return json.dumps(
            self.model_dump(exclude={"available"} if self.available else None),
            sort_keys=True,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )


class ItemRef(NamedTuple):
    """An item that can be acted on: its ordinal, and the digest of its text now."""

    item_id: str
    ordinal: int
    text_digest: str


@dataclass(frozen=True, slots=True)
class ItemPut:
    """An item to put. `bert_text`: the cleaned text that BERT reads, `text_digest` its digest,
    `vectors`: encoder id -> its (dim,) vector. `version`: the client's, None where it has none."""

    item_id: str
    body: ItemBody
    bert_text: str
    text_digest: str
    version: int | None
    vectors: Mapping[str, NDArray[np.float32]]


PutOutcome = Literal["created", "updated", "unchanged", "stale_version"]
DeleteOutcome = Literal["deleted", "unchanged", "absent", "stale_version"]


@dataclass(frozen=True, slots=True)
class PutResult:
    """What a put came to. `change_seq`: the last change of this item; `version`: the one stored."""

    item_id: str
    ordinal: int
    change_seq: int
    outcome: PutOutcome
    version: int | None


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What a delete came to. `unchanged`: it was deleted before; `absent`: it never was
    (`ordinal` None, `change_seq` 0)."""

    item_id: str
    ordinal: int | None
    change_seq: int
    outcome: DeleteOutcome
    version: int | None


@dataclass(frozen=True, slots=True)
class Item:
    """An item as it stands. `at_ms`: when it was last changed. `former_ordinals`, ascending: those
    that the id had before it was deleted and put again."""

    item_id: str
    ordinal: int
    body: ItemBody
    text_digest: str
    version: int | None
    change_seq: int
    at_ms: int
    former_ordinals: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """A row of the catalog log. `replaced_ordinal`: on a put that re-creates a deleted id, the
    ordinal that the id had before. `former_ordinals`, ascending: all that it had before (on every
    change of the id, so that whoever reads only the last one knows them too)."""

    change_seq: int
    op: Literal["put", "delete"]
    item_id: str
    ordinal: int
    body: ItemBody | None
    text_digest: str | None
    replaced_ordinal: int | None
    former_ordinals: tuple[int, ...] = ()
