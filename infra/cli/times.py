"""Times as a person reads them."""

from datetime import UTC, datetime

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def moment(option: str, text: str) -> datetime:
    """The time that was given for `option`; ValueError unless it is RFC 3339 with a zone."""
    accepted = "accepted: RFC 3339 with zone, such as 2026-12-24T00:00:00Z"
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{option} {text!r}; {accepted}") from error
    if at.tzinfo is None:
        raise ValueError(f"{option} {text!r} has no time zone; {accepted}")
    return at


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
