"""Ids in paths: a slash within an id (`%2F`) is no slash between segments.

Servers decode the path before the routes see it; then `/v1/items/a%2Fsimilar` is the route of
similar items, and `/v1/items/a%2Fb` none at all. `WholeSegments` routes by the raw path: it decodes
each segment by itself and keeps the `/` and `%` in it escaped. A route takes its ids as `PathId`,
which undoes that. So every id has one path, and every path one meaning.
"""

from typing import Annotated
from urllib.parse import unquote

from fastapi import Path
from pydantic import BeforeValidator
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.schemas.fields import Identifier


class WholeSegments:
    """Middleware: `scope["path"]` in which only real separators are slashes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands a changed copy of the scope on: the server logs the path of its own."""
        if scope["type"] == "http":
            raw_path = scope.get("raw_path")
            path = scope["path"] if raw_path is None else raw_path.decode("ascii", "replace")
            segments = path.split("/")
            if raw_path is not None:
                segments = [unquote(segment) for segment in segments]
            scope = {**scope, "path": "/".join(_escaped(segment) for segment in segments)}
        await self._app(scope, receive, send)


def _escaped(segment: str) -> str:
    return segment.replace("%", "%25").replace("/", "%2F")


def _unescaped(segment: object) -> object:
    if not isinstance(segment, str):
        return segment
    return segment.replace("%2F", "/").replace("%25", "%")


PathId = Annotated[Identifier, BeforeValidator(_unescaped), Path()]
"""An id that is a segment of the path."""
