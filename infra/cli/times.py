"""Times as a person reads them."""

from datetime import UTC, datetime

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def as_utc(at_ms: int) -> str:
    """RFC 3339 to the second: 2026-01-02T03:04:05Z."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ago(at_ms: int, now_ms: int) -> str:
    """In the largest unit that fits: "3 hours ago"."""
    seconds = max(0, now_ms - at_ms) // 1000
    for name, size in _UNITS:
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "just now"
