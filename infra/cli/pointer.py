"""The live pointer as JSON: in the words of `GET /v1/status`, the same for every command."""

from typing import Any

from infra.cli.times import as_utc
from sql.generations import LivePointer


def document(live: LivePointer | None) -> dict[str, Any] | None:
    """None before the first publish."""
    if live is None:
        return None
    pointer = live._asdict()
    moved = {"generation": pointer.pop("generation_id"), "at": as_utc(pointer.pop("at_ms"))}
    return {**moved, **pointer}
