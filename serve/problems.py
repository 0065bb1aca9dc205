"""Errors as RFC 9457 problem documents: which field, which value, what is accepted.

Every error of the API leaves through `problem_response`, so clients can rely on one shape:
`{"type", "title", "status", "detail", "errors": [{"field", "value", "accepted"}], "hint"}`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from serve.counts import STORE_AWAY
from sql.errors import StoreError
from sql.event import EventKind
from sql.ids import BadInput

log = logging.getLogger(__name__)

REQUEST_ID = "moonlark-request-id"
"""On every answer of ours. One without it comes from a proxy, and may be tried again."""

SINCE = "moonlark-since"
"""On /readyz and what else finds the database away: since when, milliseconds since 1970."""

MAX_VALUE_CHARACTERS = 200
"""A refused value is echoed so far and no further."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that was refused."""

    field: str
    value: object
    accepted: str


@dataclass
class ProblemError(Exception):
    """An answer that is an error; raised anywhere below a route."""

    status: int
    title: str
    detail: str
    errors: Sequence[FieldError] = field(default_factory=tuple)
    hint: str | None = None
    retry_after_s: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def not_found(noun: str, identifier: str, hint: str | None = None) -> ProblemError:
    """404: `noun` (such as "item") with this id does not exist."""
    return ProblemError(
        404,
        f"no such {noun}",
        f"{noun} {shorten(identifier)!r} does not exist",
        [FieldError(f"{noun}_id", identifier, f"the id of an existing {noun}")],
        hint,
    )


def unavailable(title: str, detail: str, hint: str, retry_after_s: int = 1) -> ProblemError:
    """503 with Retry-After."""
    return ProblemError(503, title, detail, hint=hint, retry_after_s=retry_after_s)


def shorten(value: object) -> object:
    """`value` as it may be echoed: scalars as they are, everything long cut."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:  # JSON of ours has no larger ones
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    text = _utf8(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "..."


def _utf8(text: str) -> str:
    """`text` with lone surrogates, which JSON can carry and UTF-8 cannot, spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def another_encoder(what: str, encoder_id: str) -> ProblemError:
    """503: the online encoder's vectors say nothing to the live generation."""
    return unavailable(
        what,
        f"the online encoder {encoder_id} is not the one of the live generation",
        "start the day with the night's MOONLARK_BERT_MODEL and MOONLARK_BERT_PRECISION, or run "
        "`moonlark night`",
        retry_after_s=30,
    )


def problem_response(problem: ProblemError) -> Response:
    """The problem document of `problem`, with Retry-After where it says so."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _utf8(problem.title),
        "status": problem.status,
        "detail": _utf8(problem.detail),
        "errors": [
            {"field": _utf8(e.field), "value": shorten(e.value), "accepted": _utf8(e.accepted)}
            for e in problem.errors
        ],
    }
    if problem.hint:
        body["hint"] = problem.hint
    headers = dict(problem.headers)
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    return Response(
        orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=headers,
    )


_TAGS = ("batch", "single", "many", "inline")
"""Names that `schemas` gives to the forms of one body."""
_KINDS = (*EventKind, "pin", "boost", "seen")
_NOT_IN_BODIES = frozenset({"body", "query", "path", *_TAGS, *_KINDS})

_FREE = (("attributes", 2), ("value", 1))
"""Fields of any name or any type, and how many parts of a location are theirs."""


def field_path(location: Sequence[str | int]) -> str:
    """`("body", "batch", "events", 3, "click", "item_id")` -> `events[3].item_id`."""
    # Where it came from and which kind was tried are how pydantic names it, not the client. What
    # stands in `attributes` and in the `value` of one is the client's; then come pydantic's tries.
    end = len(location)
    for name, deeper in _FREE:
        if name in location[:-1]:
            end = min(end, location.index(name) + deeper)
    head = location[: location.index("attributes")] if "attributes" in location else location[:-1]
    parts = [p for p in head if p not in _NOT_IN_BODIES] + list(location[len(head) : end])
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "body"


def install(api: FastAPI) -> None:
    """Make every error of `api` a problem document."""
    api.add_exception_handler(ProblemError, _on_problem)
    api.add_exception_handler(RequestValidationError, _on_validation)
    api.add_exception_handler(HTTPException, _on_http)
    api.add_exception_handler(BadInput, _on_bad_input)
    api.add_exception_handler(StoreError, _on_store)
    api.add_exception_handler(Exception, _on_bug)


async def _on_problem(_: Request, error: Exception) -> Response:
    return problem_response(cast(ProblemError, error))


async def _on_validation(request: Request, error: Exception) -> Response:
    found = [_field_error(e) for e in cast(RequestValidationError, error).errors()[:50]]
    # Of several types that one field may have each was tried: told once.
    errors = list({error.field: error for error in reversed(found)}.values())[::-1]
    names = ", ".join(e.field for e in errors[:5])
    refused = "refused" if request.method == "GET" else "refused, nothing was stored"
    return problem_response(ProblemError(422, "invalid request", f"{refused}: {names}", errors))


def _field_error(error: Any) -> FieldError:
    """One error of pydantic's in the words of the API."""
    loc = error["loc"]
    location = [p for n, p in enumerate(loc) if p not in _TAGS or "attributes" in loc[:n]]
    context = error.get("ctx", {})
    if error["type"] == "json_invalid":
        return FieldError("body", None, f"JSON: {context.get('error')}, at {location[-1]}")
    if error["type"].startswith("union_tag"):
        name = str(context["discriminator"]).strip("'")
        accepted = context.get("expected_tags", "one of " + ", ".join(EventKind))
        return FieldError(field_path([*location, name]), context.get("tag"), accepted)
    if error["type"] == "missing":  # pydantic's input is all that stands around it
        return FieldError(field_path(location), None, error["msg"])
    return FieldError(field_path(location), error.get("input"), error["msg"])


async def _on_http(_: Request, error: Exception) -> Response:
    http = cast(HTTPException, error)
    errors = [FieldError("body", None, "JSON in UTF-8")] if http.status_code == 400 else []
    hint = "see /docs for the routes" if http.status_code in (404, 405) else None
    return problem_response(
        ProblemError(
            http.status_code,
            str(http.detail).lower(),
            str(http.detail),
            errors,
            hint,
            headers=http.headers or {},  # Allow, where the method is another
        )
    )


async def _on_bad_input(_: Request, error: Exception) -> Response:
    bad = cast(BadInput, error)
    return problem_response(
        ProblemError(
            422,
            "invalid request",
            f"refused, nothing was stored: {bad.field}",
            [FieldError(bad.field, bad.value, bad.accepted)],
        )
    )


async def _on_bug(request: Request, error: Exception) -> Response:
    """Ours. The server logs the traceback; the client learns no more than that.

    Starlette answers it outside of all middleware, so the id is put on here: an answer without one
    passes for a proxy's, and clients try again.
    """
    return problem_response(
        ProblemError(
            500,
            "internal error",
            type(error).__name__,
            hint="the log of the replica has it",
            headers={REQUEST_ID: getattr(request.state, "request_id", "unknown")},
        )
    )


async def _on_store(request: Request, error: Exception) -> Response:
    """The database refused or is gone: nothing was acknowledged, the client may try again.

    Where the database is, is for our log, not for whoever asks.
    """
    log.error("the store did not answer: %s", error)
    problem = unavailable(
        "the store did not answer", type(error).__name__, getattr(error, "hint", "")
    )
    day = getattr(request.app.state, "day", None)
    if day is not None:
        day.counts.troubles.meet(STORE_AWAY)
        since_ms = day.counts.troubles.since_ms()[STORE_AWAY]
        problem = replace(problem, headers={SINCE: str(since_ms)})
    return problem_response(problem)
