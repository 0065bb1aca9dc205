"""The event log, whole: events (`event`), appending (`event_log`), reading (`history`)."""

from sql.event import (
    EXCLUDING_KINDS,
    ITEM_KINDS,
    SEEN_KINDS,
    TEXT_KINDS,
    Appended,
    EventKind,
    NewEvent,
    Problem,
    Rejected,
    StoredEvent,
    effective,
)
from sql.event_log import MAX_GROUP_EVENTS, append
from sql.event_rules import MAX_EVENTS_PER_USER_DAY
from sql.history import (
    UserRow,
    find_user,
    find_user_by_key,
    iterate_log,
    iterate_text_vectors,
    read_contexts,
    read_effective,
    read_tail,
    read_text_vectors,
    read_trimmed,
    write_text_vector,
)

__all__ = [
    "EXCLUDING_KINDS",
    "ITEM_KINDS",
    "MAX_EVENTS_PER_USER_DAY",
    "MAX_GROUP_EVENTS",
    "SEEN_KINDS",
    "TEXT_KINDS",
    "Appended",
    "EventKind",
    "NewEvent",
    "Problem",
    "Rejected",
    "StoredEvent",
    "UserRow",
    "append",
    "effective",
    "find_user",
    "find_user_by_key",
    "iterate_log",
    "iterate_text_vectors",
    "read_contexts",
    "read_effective",
    "read_tail",
    "read_text_vectors",
    "read_trimmed",
    "write_text_vector",
]
