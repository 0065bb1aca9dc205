"""What stands before every route: key, rate, body, and a bound on how many run at once.

In this order, so that a stranger costs a digest and no memory. It wraps the routes themselves, not
the app: which scope is needed is known from the route that was found, not guessed from the path.
"""

from fastapi.routing import APIRoute
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.bodies import PARSED, Bodies, check_json
from serve.day import Day
from serve.problems import ProblemError, problem_response, unavailable
from serve.scopes import scope_needed
from serve.settings import ServeSettings


class Guard:
    """The bounds of one replica, shared by its routes."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._bodies = Bodies(
            settings.max_body_bytes, settings.max_held_body_bytes, settings.body_timeout_s
        )
        self._running = 0

    def protect(self, route: Route) -> None:
        """Stand before `route`, from now on."""
        needed = scope_needed(route)
        has_body = isinstance(route, APIRoute) and route.body_field is not None
        if needed is not None:
            route.app = _Guarded(self, route.app, route.path, needed, has_body)

    async def admit(self, scope: Scope, needed: str) -> None:
        """Raises `ProblemError`: 401, 403, 429 or 503. Notes for the route whose key it is."""
        day: Day = scope["app"].state.day
        key = await day.keys.check(scope["headers"], needed)
        scope.setdefault("state", {})["key"] = key
        day.allowances.take_request(key)

    async def run(
        self, app: ASGIApp, has_body: bool, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Read the body, then run the route, if not too many run already."""
        body = await self._bodies.read(scope, receive) if has_body else b""
        try:
            if body:
                parsed = check_json(scope["headers"], body)
                if getattr(app, "takes_json", False):
                    scope["state"][PARSED] = parsed
                del parsed  # of others nobody holds two
            if self._running >= self._settings.max_concurrent_requests:
                raise unavailable(
                    "too many requests at once",
                    f"this replica answers {self._running} already",
                    "send the same again: a retry is harmless",
                )
            self._running += 1
            try:
                await app(scope, _replayed(body, receive) if has_body else receive, send)
            finally:
                self._running -= 1
        finally:
            self._bodies.let_go(body)


class _Guarded:
    """A route behind the guard."""

    def __init__(self, guard: Guard, app: ASGIApp, path: str, needed: str, has_body: bool) -> None:
        self._guard = guard
        self._app = app
        self._path = path
        self._needed = needed
        self._has_body = has_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["route"] = self._path  # as it is counted
        try:
            await self._guard.admit(scope, self._needed)
            await self._guard.run(self._app, self._has_body, scope, receive, send)
        except ProblemError as problem:
            # Those of the route itself were answered below: what comes here is the guard's.
            await problem_response(problem)(scope, receive, send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive`, beginning with the body that was read already."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
