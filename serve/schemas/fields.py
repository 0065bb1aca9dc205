"""What the bodies share: ids, texts, times, values, and that unknown fields are refused."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from ray_jobs.ranking.candidates import MAX_CANDIDATES
from sql.event import MAX_TEXT_CHARACTERS
from sql.ids import MAX_ID_CHARACTERS, is_storable

MAX_K = 500
MAX_OFFSET = MAX_CANDIDATES - MAX_K
MAX_EXCLUDE = 1_000

Identifier = Annotated[
    str, Field(min_length=1, max_length=MAX_ID_CHARACTERS, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
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
