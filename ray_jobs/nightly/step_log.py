"""A line of JSON for each step of a night, on demand (`MOONLARK_LOG=json`), without users.

    {"at": "2026-01-02T03:04:05Z", "step": "export", "generation": "g7", "outcome": "done",
     "seconds": 2.1, "rows": 100000}

`outcome` is done or failed; then `error` is its class, for its words may say more.
"""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def line(generation_id: str, step: str, at_ms: int, told: Mapping[str, Any]) -> str:
    """The line of a step that has ended."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"at": at, "step": step, "generation": generation_id, **told})


def write(told: str) -> None:
    """One call a line."""
    sys.stdout.write(told + "\n")
