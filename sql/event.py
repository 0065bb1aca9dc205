"""What an event is: the words, the row, and what may be said of it before the database is asked."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sql.ids import ID_ACCEPTED, id_accepted, is_id, is_storable
from sql.vectors import MAX_DIM, is_vector

MAX_TEXT_CHARACTERS = 5_000
MAX_SURFACE_CHARACTERS = 100
MAX_RATING = 5
MAX_TIME_MS = 253_402_300_799_999  # 9999-12-31: what a later reader can still print


class EventKind(StrEnum):
    """What a user can do."""

    VIEW = "view"
    CLICK = "click"
    RATING = "rating"
    FAVOURITE = "favourite"
    PURCHASE = "purchase"
    DISLIKE = "dislike"
    HIDE = "hide"
    SEARCH = "search"
    COMMENT = "comment"
    UNDO = "undo"


SEEN_KINDS = frozenset(
    {
        EventKind.VIEW,
        EventKind.CLICK,
        EventKind.RATING,
        EventKind.FAVOURITE,
        EventKind.PURCHASE,
    }
)
EXCLUDING_KINDS = frozenset({EventKind.DISLIKE, EventKind.HIDE})
TEXT_KINDS = frozenset({EventKind.SEARCH, EventKind.COMMENT})
ITEM_KINDS = SEEN_KINDS | EXCLUDING_KINDS
_KINDS = frozenset(EventKind)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event as a client sends it. `undoes`: the `event_id` of the one that an undo takes back.

    `vectors` (search and comment only): encoder id -> the (dim,) BERT vector of `text`; may be
    empty, then the text is embedded at the fold.
    """

    user_id: str
    event_id: str
    kind: EventKind
    item_id: str | None = None
    text: str | None = None
    value: float | None = None
    undoes: str | None = None
    occurred_at_ms: int = 0
    surface: str | None = None
    request_id: str | None = None
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an event stands in its user's log. `duplicate`: it stood there before."""

    event_id: str
    user_seq: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the event at `index` of a request was refused. `status` is the HTTP status that fits."""

    index: int
    field: str
    value: object
    accepted: str
    status: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request of which nothing was stored."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the log. `undoes_seq` names an earlier event that this one undoes or supersedes."""

    user_key: int
    user_seq: int
    event_id: str
    kind: EventKind
    item_id: str | None
    ordinal: int | None
    text_digest: str | None
    text: str | None
    value: float | None
    undoes_seq: int | None
    occurred_at_ms: int
    received_at_ms: int


def effective(events: Iterable[StoredEvent]) -> list[StoredEvent]:
    """The events that count: no undo, and none that another event's `undoes_seq` names.

    All of one user, from the first one on: a tail alone cannot know whether an undo reaches before
    it.
    """
    kept = list(events)
    gone = {event.undoes_seq for event in kept if event.undoes_seq is not None}
    return [e for e in kept if e.kind != EventKind.UNDO and e.user_seq not in gone]


def shape_problems(request: Sequence[NewEvent]) -> list[Problem]:
    """What is wrong with the events by themselves, before any lock is taken."""
    return [
        Problem(index, name, value, accepted, 422)
        for index, event in enumerate(request)
        for name, value, accepted in _faults(event)
    ]


def _faults(event: NewEvent) -> Iterable[tuple[str, object, str]]:
    """(field, value, accepted) of each fault."""
    for name, value in (("user_id", event.user_id), ("event_id", event.event_id)):
        if not is_id(value):
            yield name, value, ID_ACCEPTED
    for name, optional in (
        ("item_id", event.item_id),
        ("undoes", event.undoes),
        ("request_id", event.request_id),
    ):
        if optional is not None and not is_id(optional):
            yield name, optional, ID_ACCEPTED
    if event.surface is not None and not is_id(event.surface, MAX_SURFACE_CHARACTERS):
        yield "surface", event.surface, id_accepted(MAX_SURFACE_CHARACTERS)
    if event.kind not in _KINDS:
        yield "kind", event.kind, ", ".join(EventKind)
        return
    if not 0 <= event.occurred_at_ms <= MAX_TIME_MS:
        yield "occurred_at_ms", event.occurred_at_ms, f"0 to {MAX_TIME_MS} ms since 1970 UTC"
    yield from _faults_of_kind(event)


def _faults_of_kind(event: NewEvent) -> Iterable[tuple[str, object, str]]:
    kind = event.kind
    if kind in ITEM_KINDS and event.item_id is None:
        yield "item_id", None, f"an item, for a {kind}"
    if kind not in ITEM_KINDS and kind != EventKind.COMMENT and event.item_id is not None:
        yield "item_id", event.item_id, f"nothing, for a {kind}"
    if (kind == EventKind.UNDO) != (event.undoes is not None):
        yield "undoes", event.undoes, "the event_id of an earlier event, for an undo; else nothing"
    if kind == EventKind.RATING:
        if event.value is None or not 0 <= event.value <= MAX_RATING:  # NaN is neither
            is_number = event.value is None or math.isfinite(event.value)
            shown = event.value if is_number else repr(event.value)
            yield "value", shown, f"0 to {MAX_RATING}, for a rating"
    elif event.value is not None:
        yield "value", repr(event.value), f"nothing, for a {kind}"
    if kind in TEXT_KINDS:
        text = event.text
        if not text or len(text) > MAX_TEXT_CHARACTERS or not is_storable(text):
            shown = text if text is None else text[:200]
            yield "text", shown, f"1 to {MAX_TEXT_CHARACTERS} characters, for a {kind}"
    elif event.text is not None:
        yield "text", event.text[:200], f"nothing, for a {kind}"
    if event.vectors and kind not in TEXT_KINDS:
        yield "vectors", sorted(event.vectors), f"nothing, for a {kind}"
    for encoder_id, vector in event.vectors.items():
        if not is_vector(vector):
            yield "vectors", encoder_id, f"one row of 1 to {MAX_DIM} finite numbers"
