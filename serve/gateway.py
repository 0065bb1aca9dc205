"""The HTTP API of a replica: its routes behind the guard, a request id on every answer."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import docs, openapi, problems
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
    docs.install(api)
    openapi.install(api)
    guard = Guard(settings)
    for route in routes_of(api):
        guard.protect(route)
    api.add_middleware(WholeSegments)
    api.add_middleware(RequestId)
    return api


class RequestId:
    """Gives each request an id: in the scope for the routes, in a header for the client."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pure ASGI: BaseHTTPMiddleware would cost a task and a queue a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (REQUEST_ID.encode(), request_id.encode()),
                ]
            await send(message)

        await self._app(scope, receive, send_with_id)
