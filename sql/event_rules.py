"""The rules of the log, without the database: who gets which number, and why one is refused.

`Book` is what a group knows of its users once their rows are locked. Each request writes into a
`Draft` on top of it; a draft that met no problem is merged into the book, any other is dropped, so
that a rejected request leaves no trace in the requests that follow it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from sql.event import Appended, EventKind, NewEvent, Problem
from sql.item import ItemRef

MAX_EVENTS_PER_USER_DAY = 10_000
DAY_MS = 86_400_000
HOUR_MS = 3_600_000


class Known(NamedTuple):
    """An event that stands in the log, or will with this transaction."""

    user_seq: int
    kind: str
    item_id: str | None
    ordinal: int | None
    text_digest: str | None
    text: str | None
    value: float | None
    undoes_seq: int | None
    received_at_ms: int
    surface: str | None
    request_id: str | None
    counted_hour: int | None
    """The hour of `item_activity` in which it is counted; None: that of `received_at_ms`."""


class UserState(NamedTuple):
    """The counters of a locked users row."""

    last_user_seq: int
    day: int
    day_count: int
    erased_before_ms: int | None = None
    trimmed_seq: int = 0


class EventRow(NamedTuple):
    """A row of `events` to be written."""

    user_key: int
    event_id: str
    occurred_at_ms: int
    known: Known


# (hour, ordinal, kind) of item_activity
ActivityKey = tuple[int, int, str]


@dataclass(slots=True)
class Book:
    """State after the locks. `events` by (user_key, event_id); `undone`: (user_key, seq) -> the seq
    that undid it; `ratings`: (user_key, item_id) -> the effective rating. `history`: the group is a
    bulk of past events: no daily limit, and activity is counted where it happened. `unlisted`:
    ordinals of ids that are no items now (`sql.unlisted`); without one, an event has none."""

    received_at_ms: int
    keys: Mapping[str, int]
    users: dict[int, UserState]
    items: Mapping[str, ItemRef]
    events: dict[tuple[int, str], Known]
    undone: dict[tuple[int, int], int]
    ratings: dict[tuple[int, str], Known | None]
    history: bool = False
    unlisted: Mapping[str, int] = field(default_factory=dict)
    rows: list[EventRow] = field(default_factory=list)
    vectors: list[tuple[int, int, NewEvent]] = field(default_factory=list)
    activity: Counter[ActivityKey] = field(default_factory=Counter)


K = TypeVar("K")
V = TypeVar("V")


class _Layer(dict[K, V]):
    """What a draft changes, on top of what stands. (A ChainMap takes five times as long.)"""

    __slots__ = ("_below",)

    def __init__(self, below: Mapping[K, V]) -> None:
        super().__init__()
        self._below = below

    def __missing__(self, key: K) -> V:
        return self._below[key]

    def find(self, key: K) -> V | None:
        """The value, None where there is none."""
        return self[key] if key in self else self._below.get(key)


class Draft:
    """One request on top of the book."""

    def __init__(self, book: Book, *, keep_unknown_items: bool) -> None:
        self._book = book
        self._keep = keep_unknown_items
        self._users = _Layer(book.users)
        self._events = _Layer(book.events)
        self._undone = _Layer(book.undone)
        self._ratings = _Layer(book.ratings)
        self._rows: list[EventRow] = []
        self._vectors: list[tuple[int, int, NewEvent]] = []
        self._activity: Counter[ActivityKey] = Counter()
        self._refused: set[tuple[int, str]] = set()

    def merge(self) -> None:
        """Make the draft part of the book."""
        book = self._book
        book.users.update(self._users)
        book.events.update(self._events)
        book.undone.update(self._undone)
        book.ratings.update(self._ratings)
        book.rows += self._rows
        book.vectors += self._vectors
        book.activity.update(self._activity)

    def take(self, index: int, event: NewEvent) -> Appended | Problem | None:
        """Give `event` its place. None: it depends on an event of this request that was refused."""
        name = (self._book.keys[event.user_id], event.event_id)
        answer = self._decide(index, event, name[0])
        if not isinstance(answer, Appended):
            self._refused.add(name)
        return answer

    def _decide(self, index: int, event: NewEvent, user_key: int) -> Appended | Problem | None:
        known = self._events.find((user_key, event.event_id))
        if known is not None:
            if self._same_body(known, event, user_key):
                return Appended(event.event_id, known.user_seq, duplicate=True)
            accepted = "a new event_id, or the body that was sent with it first"
            return Problem(index, "event_id", event.event_id, accepted, 409)
        erased_before_ms = self._users[user_key].erased_before_ms
        if erased_before_ms is not None and event.occurred_at_ms <= erased_before_ms:
            accepted = f"later than {erased_before_ms} ms: the user was erased then"
            return Problem(index, "occurred_at", event.occurred_at_ms, accepted, 410)
        target: Known | None = None
        if event.undoes is not None:
            if (user_key, event.undoes) in self._refused:
                return None
            target = self._events.find((user_key, event.undoes))
            if target is None or target.kind == EventKind.UNDO:
                accepted = "the event_id of an event of this user that stands before, and no undo"
                return Problem(index, "undoes", event.undoes, accepted, 409)
            before = self._undone.find((user_key, target.user_seq))
            if before is not None:
                return Appended(event.event_id, before, duplicate=True)
        item = self._book.items.get(event.item_id) if event.item_id is not None else None
        if event.item_id is not None and item is None and not self._keep:
            return Problem(index, "item_id", event.item_id, "an item of the catalog", 404)
        return self._append(index, event, user_key, item, target)

    def _append(
        self,
        index: int,
        event: NewEvent,
        user_key: int,
        item: ItemRef | None,
        target: Known | None,
    ) -> Appended | Problem:
        received_at_ms = self._book.received_at_ms
        state = self._next_state(user_key)
        if state.day_count > MAX_EVENTS_PER_USER_DAY and not self._book.history:
            accepted = f"at most {MAX_EVENTS_PER_USER_DAY} events a user and day"
            return Problem(index, "user_id", event.user_id, accepted, 429)
        user_seq = state.last_user_seq
        self._users[user_key] = state
        if event.kind == EventKind.RATING and event.item_id is not None:
            target = self._ratings.find((user_key, event.item_id))
        known = Known(
            user_seq,
            event.kind.value,
            event.item_id,
            item.ordinal if item else self._unlisted(event.item_id),
            item.text_digest if item else None,
            event.text,
            event.value,
            target.user_seq if target else None,
            received_at_ms,
            event.surface,
            event.request_id,
            event.occurred_at_ms // HOUR_MS if self._book.history else None,
        )
        self._events[user_key, event.event_id] = known
        self._take_back(user_key, known, target)
        if event.kind == EventKind.RATING and event.item_id is not None:
            self._ratings[user_key, event.item_id] = known
        self._count(known, 1)
        self._rows.append(EventRow(user_key, event.event_id, event.occurred_at_ms, known))
        if event.vectors:
            self._vectors.append((user_key, user_seq, event))
        return Appended(event.event_id, user_seq, duplicate=False)

    def _unlisted(self, item_id: str | None) -> int | None:
        return None if item_id is None else self._book.unlisted.get(item_id)

    def _next_state(self, user_key: int) -> UserState:
        """The counters after one more event."""
        last_user_seq, day, day_count, erased_before_ms, trimmed_seq = self._users[user_key]
        if not self._book.history:
            # A replica whose clock is behind must not open yesterday again: it never goes back.
            today = max(day, self._book.received_at_ms // DAY_MS)
            day, day_count = today, (day_count if today == day else 0) + 1
        return UserState(last_user_seq + 1, day, day_count, erased_before_ms, trimmed_seq)

    def _take_back(self, user_key: int, by: Known, target: Known | None) -> None:
        """Note that `by` undoes or supersedes `target`, and stop counting `target` as activity."""
        if target is None:
            return
        self._undone[user_key, target.user_seq] = by.user_seq
        self._count(target, -1)
        if target.kind == EventKind.RATING and target.item_id is not None:
            self._ratings[user_key, target.item_id] = None

    def _count(self, known: Known, n: int) -> None:
        if known.ordinal is None or known.text_digest is None:
            return  # of no item, or of an id that was none: a stranger could make it trend
        hour = known.counted_hour
        if hour is None:
            hour = known.received_at_ms // HOUR_MS
        self._activity[hour, known.ordinal, known.kind] += n

    def _same_body(self, known: Known, event: NewEvent, user_key: int) -> bool:
        """Whether a second event under one id says what the first said.

        `occurred_at_ms` is left out: where a client sends none, the gateway fills in its clock, and
        the retry of such an event must stay harmless.
        """
        undoes_seq: int | None = None
        if event.undoes is not None:
            target = self._events.find((user_key, event.undoes))
            undoes_seq = target.user_seq if target else -1
            trimmed_seq = self._users[user_key].trimmed_seq
            if target is None and known.undoes_seq is not None and known.undoes_seq <= trimmed_seq:
                undoes_seq = known.undoes_seq  # retention took what it undid
        return (
            known.kind == event.kind
            and known.item_id == event.item_id
            and known.text == event.text
            and known.value == event.value
            and known.surface == event.surface
            and known.request_id == event.request_id
            and (known.kind != EventKind.UNDO or known.undoes_seq == undoes_seq)
        )
