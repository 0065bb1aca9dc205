"""A request's body, read whole before anything parses it: by size, in time, of bounded depth."""

import asyncio
import json
from itertools import accumulate
from typing import Any

from starlette.types import Message, Receive, Scope

from serve.problems import FieldError, ProblemError, unavailable

MAX_DEPTH = 32
"""Of arrays and objects in each other; ours are 5 deep. Python's own bound is a crash away."""

MAX_MEMBERS = 64
"""Keys of one object. An item has 50 attributes; what refuses more says so for each of them, which
would take seconds of everybody's time."""

MAX_ELEMENTS = 1_000
"""Members of one array: `exclude` may have so many."""

PARSED = "json"
"""Where in a request's state its parsed body is, for a route that takes it from there."""

_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_STEPS = [0] * 256
for _bracket, _step in zip(b"[{]}", (1, 1, -1, -1), strict=True):
    _STEPS[_bracket] = _step


class Bodies:
    """Reads bodies. In one replica at most `max_held_bytes` of them are in memory at a time."""

    def __init__(self, max_bytes: int, max_held_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._max_held_bytes = max_held_bytes
        self._timeout_s = timeout_s
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of the bodies that were read and not let go."""
        return self._held_bytes

    def let_go(self, body: bytes) -> None:
        """The request of this body is answered."""
        self._held_bytes -= len(body)

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The body, held until `let_go`.

        Raises:
            ProblemError: 413 too large, 408 too slow, 503 too many of them.
        """
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self._max_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                while (message := await receive())["type"] == "http.request":
                    body += self._hold(message, len(body))
                    if not message.get("more_body", False):
                        break
        except BaseException as error:
            self._held_bytes -= len(body)
            if isinstance(error, TimeoutError):
                raise self._too_slow() from None
            raise
        return bytes(body)

    def _hold(self, message: Message, before_bytes: int) -> bytes:
        chunk: bytes = message.get("body", b"")
        if before_bytes + len(chunk) > self._max_bytes:
            raise self._too_large()
        if self._held_bytes + len(chunk) > self._max_held_bytes:
            raise unavailable(
                "too many bodies",
                f"{self._held_bytes} bytes of other requests are in memory",
                "send the same again: a retry is harmless",
            )
        self._held_bytes += len(chunk)
        return chunk

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413,
            "body too large",
            f"a body has at most {self._max_bytes} bytes",
            hint="send fewer events or items at a time",
            headers={"Connection": "close"},
        )

    def _too_slow(self) -> ProblemError:
        return ProblemError(
            408,
            "body too slow",
            f"a body arrives within {self._timeout_s:g} s",
            hint="send the same again: a retry is harmless",
            headers={"Connection": "close"},
        )


def check_json(headers: list[tuple[bytes, bytes]], body: bytes) -> Any:
    """The JSON of a body; what is not JSON in UTF-8, is too deep, or says a key twice is refused.

    Raises:
        ProblemError: 415 for another content type, 422 for the rest.
    """
    _check_type(dict(headers).get(b"content-type", b""))
    if depth(body) > MAX_DEPTH:
        raise _no_json(f"JSON of at most {MAX_DEPTH} arrays and objects in each other")
    try:
        parsed = json.loads(body.decode("utf-8"), object_pairs_hook=_check_object)
        _check_array(parsed)
    except json.JSONDecodeError as error:
        raise _no_json(f"JSON: {error.msg}, at {error.pos}") from error
    except UnicodeDecodeError as error:
        raise _no_json(f"JSON in UTF-8; byte {error.start} is not") from error
    except RecursionError as error:  # no JSON, so that its depth was not seen
        raise _no_json("JSON") from error
    except ValueError as error:  # a key twice, too many of them; an integer of 4,301 digits
        raise _no_json(f"JSON: {error}") from error
    return parsed


def depth(body: bytes) -> int:
    """How deep arrays and objects lie in each other. A cheap upper bound where it is small."""
    openings = body.count(b"[") + body.count(b"{")
    if openings <= MAX_DEPTH:
        return openings
    # Every second part between quotes is outside of strings, once the quotes in them are gone.
    # (A pattern that skips strings takes five times as long.)
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _check_type(value: bytes) -> None:
    media_type, _, parameters = value.decode("latin-1").lower().partition(";")
    kind, _, subtype = media_type.strip().partition("/")
    is_json = kind == "application" and (subtype == "json" or subtype.endswith("+json"))
    charset = parameters.replace(" ", "").replace('"', "").partition("charset=")[2].split(";")[0]
    if not is_json or charset not in ("", "utf-8", "utf8"):
        accepted = "application/json, in UTF-8"
        raise ProblemError(
            415,
            "unsupported media type",
            f"the body is to be {accepted}",
            [FieldError("content-type", value.decode("latin-1"), accepted)],
            hint="send the header `content-type: application/json`",
        )


def _check_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(pairs) > MAX_MEMBERS:
        raise ValueError(f"at most {MAX_MEMBERS} keys in an object")
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"each key once; {repeated[:100]!r} is repeated")
    for value in members.values():
        if type(value) is list:
            _check_array(value)
    return members


def _check_array(value: object) -> None:
    """Also of the arrays in it; of the objects the parser has nothing left."""
    if isinstance(value, list):
        if len(value) > MAX_ELEMENTS:
            raise ValueError(f"at most {MAX_ELEMENTS} members in an array")
        for member in value:
            if type(member) is list:
                _check_array(member)


def _no_json(accepted: str) -> ProblemError:
    errors = [FieldError("body", None, accepted)]
    return ProblemError(422, "invalid request", "refused, nothing was stored: body", errors)
