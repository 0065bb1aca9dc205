"""What can go wrong between a program and moonlark's API.

    MoonlarkError
    |-- Unreachable          no answer of moonlark's own within the tries and the deadline
    |-- UnexpectedAnswer     an answer of another shape: client and server differ in version
    `-- ApiError             moonlark answered with a problem document (RFC 9457)
        |-- NotAllowed       401, 403
        |-- NotFound         404
        |-- Conflict         409   another body under this event_id, a stale version
        |-- Gone             410   the user was erased after this event happened
        |-- Invalid          other 4xx: `errors` names field, value and what is accepted
        |-- LimitReached     429
        |-- Unavailable      503   still, after the tries
        `-- ServerFailed     other 5xx

Each carries `method`, `url`, `tries` and a `hint`: what to do next, or None.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class MoonlarkError(Exception):
    """Base of the tree."""

    def __init__(
        self, message: str, *, method: str, url: str, tries: int, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.method, self.url, self.tries, self.hint = method, url, tries, hint


class Unreachable(MoonlarkError):
    """Nothing that moonlark itself said came back. Sending the same again is harmless."""


class UnexpectedAnswer(MoonlarkError):
    """moonlark answered, but not what this client understands."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field that was refused."""

    field: str
    value: object
    accepted: str


class ApiError(MoonlarkError):
    """A problem document. `errors` are the refused fields, `request_id` finds it in the logs."""

    def __init__(
        self,
        *,
        status: int,
        title: str,
        detail: str,
        errors: Sequence[FieldProblem] = (),
        hint: str | None = None,
        request_id: str | None = None,
        method: str,
        url: str,
        tries: int,
    ) -> None:
        fields = "".join(f"\n  {e.field} = {e.value!r}: accepted is {e.accepted}" for e in errors)
        super().__init__(
            f"{status} {title}: {detail}{fields}", method=method, url=url, tries=tries, hint=hint
        )
        self.status, self.title, self.detail = status, title, detail
        self.errors, self.request_id = tuple(errors), request_id


class NotAllowed(ApiError):
    """The key is missing, unknown, or may not do this."""


class NotFound(ApiError):
    """No such user, item or generation. After `tries` > 1 a delete may have been its own reason."""


class Conflict(ApiError):
    """What is stored speaks against it: another body under this id, or a newer version."""


class Gone(ApiError):
    """The user was erased."""


class Invalid(ApiError):
    """The request itself is wrong; sending it again will not help."""


class LimitReached(ApiError):
    """Too many requests or events."""


class Unavailable(ApiError):
    """moonlark cannot answer now; nothing of the request was acknowledged."""


class ServerFailed(ApiError):
    """A fault of moonlark: report it with `request_id`."""


def api_error_class(status: int) -> type[ApiError]:
    """The class for an HTTP status of 400 or above."""
    by_status: dict[int, type[ApiError]] = {
        401: NotAllowed,
        403: NotAllowed,
        404: NotFound,
        409: Conflict,
        410: Gone,
        429: LimitReached,
        503: Unavailable,
    }
    return by_status.get(status, ServerFailed if status >= 500 else Invalid)
