"""Short words for the contract tests: events, items, and what a log holds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, func, select

from sql import catalog, events
from sql.engine import read_snapshot
from sql.events import Appended, EventKind, NewEvent, Rejected, StoredEvent
from sql.tables import metadata

NOW_MS = 1_750_000_000_000
ENCODER = "encoder-a"
DIM = 4


def vector(seed: int) -> NDArray[np.float32]:
    """A (DIM,) vector, the same for the same seed."""
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


def put(
    item_id: str,
    title: str | None = None,
    version: int | None = None,
    **vectors: NDArray[np.float32],
) -> catalog.ItemPut:
    """An item whose text is its title."""
    text = title or f"title of {item_id}"
    body = catalog.ItemBody(title=text)
    return catalog.ItemPut(item_id, body, text, f"digest of {text}"[:64], version, vectors)


def fill(engine: Engine, count: int = 10) -> None:
    """Items i0, i1, ... with ordinals 0, 1, ..."""
    catalog.put_items(engine, [put(f"i{n}") for n in range(count)], NOW_MS)


def click(user_id: str, event_id: str, item_id: str = "i0") -> NewEvent:
    """A click."""
    return NewEvent(user_id, event_id, EventKind.CLICK, item_id, occurred_at_ms=NOW_MS)


def rate(user_id: str, event_id: str, item_id: str, value: float) -> NewEvent:
    """A rating."""
    return NewEvent(user_id, event_id, EventKind.RATING, item_id, value=value)


def undo(user_id: str, event_id: str, target: str) -> NewEvent:
    """An undo of the event `target`."""
    return NewEvent(user_id, event_id, EventKind.UNDO, undoes=target)


def send(
    engine: Engine, *request: NewEvent, keep: bool = False, at_ms: int = NOW_MS
) -> list[Appended] | Rejected:
    """Append one request."""
    answers = events.append(engine, [request], received_at_ms=at_ms, keep_unknown_items=keep)
    return answers[0]


def seqs(answer: list[Appended] | Rejected) -> list[int]:
    """The numbers of an accepted request."""
    assert isinstance(answer, list), answer
    return [appended.user_seq for appended in answer]


def statuses(answer: list[Appended] | Rejected) -> list[tuple[int, str, int]]:
    """(index, field, status) of the problems of a rejected request."""
    assert isinstance(answer, Rejected), answer
    return [(p.index, p.field, p.status) for p in answer.problems]


def log_of(engine: Engine, user_id: str) -> list[StoredEvent]:
    """The whole log of a user; empty where there is no such user."""
    with read_snapshot(engine) as conn:
        user = events.find_user(conn, user_id)
        if user is None:
            return []
        log = events.read_tail(conn, user.user_key, 0, events_limit())
        assert user.last_user_seq == len(log)
        return log


def user_key(engine: Engine, user_id: str) -> int:
    """The key of a user who exists."""
    with read_snapshot(engine) as conn:
        user = events.find_user(conn, user_id)
        assert user is not None
        return user.user_key


def events_limit() -> int:
    """More than any test appends."""
    return 100_000


def counts(engine: Engine, *tables: str) -> dict[str, int]:
    """Rows of each table."""
    with read_snapshot(engine) as conn:
        return {
            name: conn.execute(select(func.count()).select_from(metadata.tables[name])).scalar_one()
            for name in tables
        }


def ids(sequence: Sequence[StoredEvent]) -> list[str]:
    """Their event ids."""
    return [event.event_id for event in sequence]
