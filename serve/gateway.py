"""The HTTP API of a replica: its routes behind the guard; every answer has an id and is counted."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import perf_counter

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import docs, openapi, problems, request_log
from serve.counts import CLIENT_LEFT, OTHER_ROUTE
from serve.day import Day
from serve.guard import Guard
from serve.path_ids import WholeSegments
from serve.problems import REQUEST_ID
from serve.query_names import refuse_unknown_query
from serve.routes import (
    erasures,
    events,
    health,
    items,
    policies,
    quick_events,
    quick_list,
    recommendations,
    trending,
    users,
)
from serve.scopes import routes_of
from serve.settings import ServeSettings

API_VERSION = "1"


def build_api(settings: ServeSettings, start: Callable[[], Awaitable[Day]]) -> FastAPI:
    """The FastAPI app of one replica; OpenAPI at /docs.

    `start` makes the replica's Day on the loop that will serve it; it is stopped with the app.

    Raises:
        serve.scopes.UnguardedRoute: a route does not say which scope it needs.
    """

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        api.state.day = await start()
        yield
        await api.state.day.stop()

    api = FastAPI(
        lifespan=lifespan,
        title="moonlark",
        version=API_VERSION,
        summary="A recommender that learns by night and listens by day.",
        docs_url=None,  # ours need no internet
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name whatever host was asked for
    )
    problems.install(api)
    for module in (recommendations, trending, events, items, policies, users, erasures):
        api.include_router(module.router, dependencies=[Depends(refuse_unknown_query)])
    api.include_router(health.router)  # what probes ask: whatever they append does no harm
    quick_list.install(api)
    quick_events.install(api)
    docs.install(api)
    openapi.install(api)
    guard = Guard(settings)
    for route in routes_of(api):
        guard.protect(route)
    api.add_middleware(WholeSegments)
    api.add_middleware(RequestId)
    return api


class RequestId:
    """Gives each request an id, in the scope for the routes and in a header for the client; and
    counts it when it has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pure ASGI: BaseHTTPMiddleware would cost a task and a queue a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = perf_counter()
        request_id = uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 500  # what Starlette answers outside of all middleware where nothing was

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (REQUEST_ID.encode(), request_id.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            status = CLIENT_LEFT
            raise
        finally:
            _count(scope, status, perf_counter() - began_s)


def _count(scope: Scope, status: int, seconds: float) -> None:
    """A method is whatever a client calls it, so only those of our routes are told apart."""
    day: Day | None = getattr(scope["app"].state, "day", None)  # None while it starts
    if day is not None:
        route = scope["state"].get("route")
        method = scope["method"] if route is not None else OTHER_ROUTE
        day.counts.answer(route or OTHER_ROUTE, method, status, seconds)
        if day.settings.log == "json":
            at, told = datetime.now(UTC), scope["state"]
            request_log.write(
                request_log.line(told, route or OTHER_ROUTE, method, status, seconds, at)
            )
