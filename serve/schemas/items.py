"""The catalog: what is put, and what it is now."""

from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from serve.schemas.fields import AttributeValue, Identifier, Moment, StrictBody
from sql.item import (
    MAX_ATTRIBUTES,
    MAX_CATEGORY_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    MAX_VERSION,
)

MAX_ITEMS = 500


def _by_the_first_that_is_none(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Pydantic collects an error for each type that each member of each list could have; here the
    first attribute that is none, and of a list the first member that is no text, are enough."""
    if isinstance(value, dict):
        for name, attribute in value.items():
            if isinstance(attribute, list):
                wrong = [member for member in attribute if not isinstance(member, str)][:1]
                if wrong:
                    return validate({name: wrong})
            elif not isinstance(attribute, str | bool | int | float):
                return validate({name: attribute})
    return validate(value)


class ItemBodyIn(StrictBody):
    """An item as its owner describes it."""

    title: str = Field(min_length=1, max_length=MAX_TITLE_CHARACTERS)
    text: str = Field("", max_length=MAX_TEXT_CHARACTERS)
    category: str | None = Field(None, max_length=MAX_CATEGORY_CHARACTERS)
    attributes: Annotated[
        dict[str, AttributeValue | list[str]], WrapValidator(_by_the_first_that_is_none)
    ] = Field(default_factory=dict, max_length=MAX_ATTRIBUTES)
    published_at: Moment | None = Field(
        None,
        description="what came in the last weeks gets its chance in lists; without it an item is "
        "found by its text alone until somebody acts on it",
    )
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
