"""Query parameters that a route does not know are refused: a typo is not to be lost in silence."""

from collections.abc import Callable
from typing import Any

from fastapi import Request

from serve.problems import FieldError, ProblemError

_known_by_endpoint: dict[Callable[..., Any], frozenset[str]] = {}
"""Filled once a route; there are as many entries as routes."""


async def refuse_unknown_query(request: Request) -> None:
    """A FastAPI dependency. Raises ProblemError 422 that names each unknown parameter."""
    if not request.scope["query_string"]:
        return
    known = _known_names(request.scope["route"])
    unknown = [(name, value) for name, value in request.query_params.items() if name not in known]
    if unknown:
        accepted = f"one of {', '.join(sorted(known))}" if known else "no query parameter"
        raise ProblemError(
            422,
            "unknown query parameter",
            f"refused: {', '.join(name for name, _ in unknown[:5])}",
            [FieldError(name, value, accepted) for name, value in unknown[:50]],
        )


def _known_names(route: Any) -> frozenset[str]:
    """The names in a FastAPI route's own signature; none of our dependencies takes any."""
    known = _known_by_endpoint.get(route.endpoint)
    if known is None:
        known = frozenset(field.alias for field in route.dependant.query_params)
        _known_by_endpoint[route.endpoint] = known
    return known
