"""Which scope each route needs: the one table. A route without an entry fails the build of the API.

Shown in OpenAPI, route by route. `admin` may do everything (`sql.keys`).
"""

from collections.abc import Iterable

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

NEEDED: dict[str, str | None] = {
    # Open to anybody who reaches the port: they hold no data.
    "GET /healthz": None,
    "GET /readyz": None,
    "GET /openapi.json": None,
    "GET /docs": None,
    "GET /docs/files/swagger-ui-bundle.js": None,
    "GET /docs/files/swagger-ui.css": None,
    "GET /docs/files/redoc.standalone.js": None,
    "GET /docs/files/favicon.png": None,
    "GET /redoc": None,
    # Lists, and what is in them.
    "GET /v1/users/{user_id}/recommendations": "recommend:read",
    "POST /v1/recommendations": "recommend:read",
    "GET /v1/items/{item_id}/similar": "recommend:read",
    "POST /v1/search": "recommend:read",
    "GET /v1/trending": "recommend:read",
    "GET /v1/items/{item_id}": "recommend:read",
    # What users do, what there is.
    "POST /v1/events": "events:write",
    "PUT /v1/items": "items:write",
    "PUT /v1/items/{item_id}": "items:write",
    "DELETE /v1/items/{item_id}": "items:write",
    "GET /v1/policies": "items:write",
    "GET /v1/policies/{policy_id}": "items:write",
    "PUT /v1/policies/{policy_id}": "items:write",
    "DELETE /v1/policies/{policy_id}": "items:write",
    # What is personal, and what an on-call looks at.
    "GET /v1/users/{user_id}": "admin",
    "GET /v1/users/{user_id}/events": "admin",
    "DELETE /v1/users/{user_id}": "admin",
    "GET /v1/erasures/{erasure_id}": "admin",
    "GET /v1/status": "admin",
}


class UnguardedRoute(Exception):
    """A route of the API has no entry in `NEEDED`, or one that differs between its methods."""


def operations(route: Route) -> list[str]:
    """`["GET /v1/status"]`: the entries that the route has in the table."""
    return [f"{method} {route.path}" for method in sorted((route.methods or set()) - {"HEAD"})]


def routes_of(api: FastAPI) -> Iterable[Route]:
    """Every route of the API.

    Raises:
        UnguardedRoute: something else answers (a mount, a websocket), which the table cannot name.
    """
    for route in api.routes:
        if not isinstance(route, Route):
            raise UnguardedRoute(f"{_shown(route)} is no HTTP route")
        yield route


def scope_needed(route: Route) -> str | None:
    """The scope that `route` needs, None for an open one.

    Raises:
        UnguardedRoute: it has no entry, or its methods need different scopes.
    """
    names = operations(route)
    absent = [name for name in names if name not in NEEDED]
    if absent or not names:
        raise UnguardedRoute(f"{absent or _shown(route)}: add it to serve/scopes.py")
    needed = {NEEDED[name] for name in names}
    if len(needed) > 1:
        raise UnguardedRoute(f"{names} need different scopes: make them two routes")
    return needed.pop()


def _shown(route: BaseRoute) -> str:
    return f"{type(route).__name__} {getattr(route, 'path', '')}"
