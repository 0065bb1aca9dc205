"""What routes share: the replica's `Day`, the request's id, times in and out."""

from datetime import UTC, datetime
from typing import cast

from fastapi import Request

from serve.day import Day
from serve.problems import FieldError, ProblemError
from serve.schemas import AttributeValue, typed_value

MAX_FILTERS = 10


def day_of(request: Request) -> Day:
    """The running replica (a FastAPI dependency)."""
    return cast(Day, request.app.state.day)


def request_id_of(request: Request) -> str:
    """The id that the gateway gave this request."""
    return cast(str, request.state.request_id)


def to_ms(at: datetime) -> int:
    """Milliseconds since 1970 UTC."""
    return round(at.timestamp() * 1000)


def from_ms(at_ms: int) -> datetime:
    """Aware datetime in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def parse_attributes(pairs: list[str]) -> dict[str, AttributeValue]:
    """`["genres:Comedy", "year:1995"]` -> `{"genres": "Comedy", "year": 1995}`.

    Raises:
        ProblemError: 422 for a pair without a colon, or too many.
    """
    attributes: dict[str, AttributeValue] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon or not name or len(pairs) > MAX_FILTERS:
            accepted = f"name:value, at most {MAX_FILTERS} of them"
            raise ProblemError(
                422, "invalid filter", "refused", [FieldError("attribute", pair, accepted)]
            )
        attributes[name] = typed_value(value)
    return attributes
