"""The log of someone who is not stored: events that came with the request, by the log's own rules.

`sql.event_rules` gives them their numbers, resolves undo and re-rating, and refuses what the log
would refuse; only the database is missing. So what is folded is what a stored user's log would be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from serve.user_state import TextVectors
from sql import catalog
from sql.engine import read_snapshot
from sql.event import shape_problems
from sql.event_rules import Book, Draft, UserState
from sql.events import EventKind, NewEvent, Problem, Rejected, StoredEvent

NOBODY = "anonymous"
"""The user id of inline events; it names no one and is stored nowhere."""

_NOBODYS_KEY = 0


@dataclass(frozen=True, slots=True)
class InlineLog:
    """Events 1..n. `text_vectors`: encoder id -> `user_seq` -> the (text_dim,) BERT vector of a
    search or comment; those that BERT did not read are absent."""

    events: Sequence[StoredEvent]
    text_vectors: Mapping[str, TextVectors]


def inline_log(
    engine: Engine, events: Sequence[NewEvent], *, received_at_ms: int, keep_unknown_items: bool
) -> InlineLog | Rejected:
    """Number `events` (all of user `NOBODY`) as an append to an empty log would.

    Items are resolved in one read, to what they are now.
    """
    if problems := shape_problems(events):
        return Rejected(tuple(problems))
    with read_snapshot(engine) as conn:
        items = catalog.resolve_items(conn, {e.item_id for e in events if e.item_id is not None})
    book = Book(
        received_at_ms=received_at_ms,
        keys={NOBODY: _NOBODYS_KEY},
        users={_NOBODYS_KEY: UserState(last_user_seq=0, day=0, day_count=0)},
        items=items,
        events={},
        undone={},
        ratings={},
    )
    draft = Draft(book, keep_unknown_items=keep_unknown_items)
    taken = [draft.take(index, event) for index, event in enumerate(events)]
    if refused := tuple(answer for answer in taken if isinstance(answer, Problem)):
        return Rejected(refused)
    draft.merge()
    stored = [
        StoredEvent(
            user_key=row.user_key,
            user_seq=row.known.user_seq,
            event_id=row.event_id,
            kind=EventKind(row.known.kind),
            item_id=row.known.item_id,
            ordinal=row.known.ordinal,
            text_digest=row.known.text_digest,
            text=row.known.text,
            value=row.known.value,
            undoes_seq=row.known.undoes_seq,
            occurred_at_ms=row.occurred_at_ms,
            received_at_ms=row.known.received_at_ms,
        )
        for row in book.rows
    ]
    vectors: dict[str, dict[int, NDArray[np.float32]]] = {}
    for _, user_seq, event in book.vectors:
        for encoder_id, vector in event.vectors.items():
            vectors.setdefault(encoder_id, {})[user_seq] = vector
    return InlineLog(stored, vectors)
