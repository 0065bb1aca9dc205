"""The Python client of moonlark's HTTP API: needs httpx, tenacity and pydantic, nothing heavier.

from infra.client import Moonlark

with Moonlark("http://127.0.0.1:8000") as moonlark:
    moonlark.post_events([{"user_id": "u1", "kind": "click", "item_id": "50"}])
    for item in moonlark.recommend("u1", k=10).items:
        print(item.title, item.score)
"""

from infra.client.errors import (
    ApiError,
    Conflict,
    FieldProblem,
    Gone,
    Invalid,
    LimitReached,
    MoonlarkError,
    NotAllowed,
    NotFound,
    ServerFailed,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from infra.client.moonlark import Moonlark
from infra.client.retry import RetryPolicy

__all__ = [
    "ApiError",
    "Conflict",
    "FieldProblem",
    "Gone",
    "Invalid",
    "LimitReached",
    "Moonlark",
    "MoonlarkError",
    "NotAllowed",
    "NotFound",
    "RetryPolicy",
    "ServerFailed",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
]
