"""A line of JSON for each request, on demand (`MOONLARK_LOG=json`): what was asked of which route,
and what answered it. Never who asked, nor what about: an erasure does not reach logs.

    {"at": "2026-01-02T03:04:05.678Z", "request_id": "...", "route": "/v1/search", "method": "POST",
     "status": 200, "ms": 3.1, "generation": "g7", "user_seq": 12, "catalog_seq": 3, "degraded": []}

The last four where the answer has them. Lines go to the replica's standard output.
"""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

NOTED = "noted"
"""Where in the request's state a route puts what it answered from."""

KEPT = ("generation", "user_seq", "catalog_seq", "degraded")
"""Of an answer: nothing of these names a user or an item."""


def note(state: Any, answer: Mapping[str, Any]) -> None:
    """Remember what an answer was made of, for the line of its request."""
    state[NOTED] = {name: answer[name] for name in KEPT if name in answer}


def line(
    state: Mapping[str, Any], route: str, method: str, status: int, seconds: float, at: datetime
) -> bytes:
    """The line of a request that has ended at `at`."""
    told = {
        "at": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "request_id": state["request_id"],
        "route": route,
        "method": method,
        "status": status,
        "ms": round(seconds * 1000, 2),
        **state.get(NOTED, {}),
    }
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def write(told: bytes) -> None:
    """One call a line, so that lines of threads do not mix."""
    sys.stdout.write(told.decode())
