"""What routes share: the replica's `Day`, the request's id, times in and out."""

from datetime import UTC, datetime
from typing import cast

from fastapi import Request

from ray_jobs.shards.items import Wanted
from serve.day import Day
from serve.problems import FieldError, ProblemError
from serve.schemas.fields import typed_value
from sql.keys import ApiKey

MAX_FILTERS = 10


async def day_of(request: Request) -> Day:
    """The running replica (a FastAPI dependency; `async`, or each request would hop threads)."""
    return cast(Day, request.app.state.day)


def request_id_of(request: Request) -> str:
    """The id that the gateway gave this request."""
    return cast(str, request.state.request_id)


def key_of(request: Request) -> ApiKey | None:
    """The key that the request carries, None where none is needed."""
    return cast(ApiKey | None, request.state.key)


def may_read_texts(key: ApiKey | None) -> bool:
    """Whether what users wrote may be shown to who has `key`: it needs the scope `admin`."""
    return key is None or key.allows("admin")


def to_ms(at: datetime) -> int:
    """Milliseconds since 1970 UTC."""
    return round(at.timestamp() * 1000)


def from_ms(at_ms: int) -> datetime:
    """Aware datetime in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def parse_attributes(pairs: list[str]) -> dict[str, Wanted]:
    """`["genres:Comedy", "year:1995"]` -> `{"genres": "Comedy", "year": (1995, "1995")}`.

    A query has no types, so what looks like a number or a truth value matches the text as well;
    in quotes, `year:"1995"`, it is the text alone.

    Raises:
        ProblemError: 422 for a pair without a colon, a name that repeats, or too many.
    """
    attributes: dict[str, Wanted] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon or not name or name in attributes or len(pairs) > MAX_FILTERS:
            accepted = f"name:value, each name once, at most {MAX_FILTERS} of them"
            raise ProblemError(
                422, "invalid filter", "refused", [FieldError("attribute", pair, accepted)]
            )
        attributes[name] = _wanted(value)
    return attributes


def _wanted(value: str) -> Wanted:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1]
    typed = typed_value(value)
    return typed if isinstance(typed, str) else (typed, value)
