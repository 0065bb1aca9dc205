"""What an id and a text may be: the one place where it is decided."""

import re

MAX_ID_CHARACTERS = 200

# C0, DEL, C1 and lone surrogates: the last cannot be written as UTF-8, so no database takes them.
_REFUSED_IN_ID = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Postgres has no NUL in text; SQLite would store one that other tools then cut at.
_REFUSED_IN_TEXT = re.compile("[\x00\ud800-\udfff]")


def id_accepted(most: int) -> str:
    """What is accepted as an id of at most so many characters, in words."""
    return f"1 to {most} characters, no control characters"


ID_ACCEPTED = id_accepted(MAX_ID_CHARACTERS)


class BadInput(ValueError):
    """A caller's bad value: `field`, `value`, and what is `accepted`."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(f"{field}: {value!r:.200} is not accepted; accepted: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted


def is_id(value: object, most: int = MAX_ID_CHARACTERS) -> bool:
    """Whether `value` may name a user, an event or an item (or, of other length, a place)."""
    return (
        isinstance(value, str) and 0 < len(value) <= most and _REFUSED_IN_ID.search(value) is None
    )


def check_id(field: str, value: str) -> str:
    """Return `value`, or raise `BadInput` that names `field`."""
    if not is_id(value):
        raise BadInput(field, value, ID_ACCEPTED)
    return value


def is_storable(text: str) -> bool:
    """Whether both databases can store `text` unchanged (no NUL, no lone surrogate)."""
    return _REFUSED_IN_TEXT.search(text) is None
