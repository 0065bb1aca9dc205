"""The HTTP API of a replica: routes, limits on bodies, a request id on every answer."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import problems
from serve.day import Day
from serve.problems import ProblemError, problem_response
from serve.routes import (
    erasures,
    events,
    health,
    items,
    policies,
    recommendations,
    trending,
    users,
)
from serve.settings import ServeSettings

API_VERSION = "1"
REQUEST_ID = "moonlark-request-id"
"""On every answer of ours. One without it comes from a proxy, and may be tried again."""


def build_api(settings: ServeSettings, start: Callable[[], Awaitable[Day]]) -> FastAPI:
    """The FastAPI app of one replica; OpenAPI at /docs.

    `start` makes the replica's Day on the loop that will serve it; it is stopped with the app.
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
    )
    problems.install(api)
    for module in (
        recommendations,
        trending,
        events,
        items,
        policies,
        users,
        erasures,
        health,
    ):
        api.include_router(module.router)
    api.add_middleware(LimitedBody, max_bytes=settings.max_body_bytes)
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


class LimitedBody:
    """Refuses a body above `max_bytes` before it is in memory: by its length, else as it comes."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """413 with a problem document."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await problem_response(self._too_large())(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                # The one exception that FastAPI lets through while it reads a body.
                raise HTTPException(413, self._too_large().detail)
            return message

        await self._app(scope, limited, send)

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413,
            "body too large",
            f"a body has at most {self._max_bytes} bytes",
            hint="send fewer events or items at a time",
        )
