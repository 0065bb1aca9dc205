"""Python values as the API's query parameters and bodies."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from serve.schemas.fields import AttributeValue

Attributes = Mapping[str, AttributeValue]


def list_body(
    k: int,
    category: str | None,
    attributes: Attributes | None,
    exclude: Sequence[str],
    exclude_seen: bool,
    offset: int,
    as_of: datetime | None,
    explain: bool,
    diversity: float,
    **whose: Any,
) -> dict[str, Any]:
    """The body of POST /v1/recommendations; `whose`: users or events."""
    return {
        **whose,
        "k": k,
        "category": category,
        "attributes": dict(attributes or {}),
        "exclude": list(exclude),
        "exclude_seen": exclude_seen,
        "offset": offset,
        "as_of": as_of,
        "explain": explain,
        "diversity": diversity,
    }


def filters(
    category: str | None, attributes: Attributes | None, exclude: Sequence[str]
) -> list[tuple[str, str]]:
    """As query parameters; what repeats is repeated."""
    query = [] if category is None else [("category", category)]
    query += [("attribute", f"{name}:{text_of(v)}") for name, v in (attributes or {}).items()]
    return query + [("exclude", item_id) for item_id in exclude]


def text_of(value: AttributeValue) -> str:
    """As a query parameter: JSON's words for true and false."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def rfc3339(field: str, at: datetime) -> str:
    """Raises ValueError for a time without a zone."""
    if at.tzinfo is None:
        raise ValueError(f"{field}: {at} has no time zone, accepted: an aware datetime")
    return at.isoformat()


def without_none(body: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with times as RFC 3339, without the fields that say nothing."""
    return {
        name: rfc3339(name, value) if isinstance(value, datetime) else value
        for name, value in body.items()
        if value is not None
    }
