"""Apps that do nothing: by Serve behind the same HAProxy, and FastAPI alone under uvicorn.

uvicorn infra.bench.serving.floor_apps:api
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Response
from ray import serve as ray_serve
from starlette.types import ASGIApp, Receive, Scope, Send

BODY = b'{"items":[]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]

api = FastAPI()


@api.get("/nothing")
async def nothing(k: int = 20) -> Response:
    """The least that a route does."""
    return Response(BODY, media_type="application/json")


async def answer_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """The least that an ASGI app does."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


class Nothing:
    """A replica of it. `framework`: "asgi" or "fastapi"."""

    def __init__(self, framework: str) -> None:
        self._app: ASGIApp = api if framework == "fastapi" else answer_nothing

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app


NOTHING = ray_serve.deployment(
    max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=1
)(ray_serve.ingress()(Nothing))


def build(args: Mapping[str, Any]) -> ray_serve.Application:
    """With as many replicas as the gateway has."""
    return NOTHING.options(num_replicas=args["replicas"]).bind(args["framework"])
