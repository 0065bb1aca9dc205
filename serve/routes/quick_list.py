"""The request that nearly all are, without FastAPI's part: a list of one user, of some length.

    GET /v1/users/U/recommendations            GET /v1/users/U/recommendations?k=20

To read twelve query parameters by pydantic and to resolve the route's dependencies takes half as
long as a list. Whatever else is asked, and whatever would be refused, goes to the route itself:
here is only what both would answer alike.
"""

import re

import orjson
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.day import Day
from serve.lists import ListQuery
from serve.request_log import note
from serve.routes.recommendations import DEFAULT_K, list_of, recommend
from serve.schemas.fields import MAX_K

_QUERY = re.compile(rb"(?:k=([1-9][0-9]{0,3}))?")
_USER_ID = re.compile(r"[A-Za-z0-9._~:@-]{1,100}")
"""Ids that are written in a path as they are."""


class QuickList:
    """In front of the route's app, behind the guard."""

    def __init__(self, route: ASGIApp) -> None:
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user_id: str = scope["path_params"]["user_id"]
        asked = _QUERY.fullmatch(scope["query_string"])
        k = DEFAULT_K if asked is None or asked[1] is None else int(asked[1])
        if asked is None or k > MAX_K or _USER_ID.fullmatch(user_id) is None:
            await self._route(scope, receive, send)
            return
        day: Day = scope["app"].state.day
        state = scope["state"]
        answer = await list_of(
            *(day, state["key"], user_id, ListQuery(k=k), state["request_id"]), is_usual=True
        )
        note(state, answer)
        body = orjson.dumps(answer)
        headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"application/json"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def install(api: FastAPI) -> None:
    """Put it in front of the route of users' lists. To be called before the guard is."""
    for route in api.routes:
        if isinstance(route, APIRoute) and route.endpoint is recommend:
            route.app = QuickList(route.app)
            return
    raise AssertionError("there is a route of users' lists")
