"""Small makers of what the tests put into a store."""

import hashlib
from typing import Any

import numpy as np
from sqlalchemy import Engine

from sql.catalog import ItemBody, ItemPut, PutResult, put_items
from sql.engine import read_snapshot
from sql.events import (
    Appended,
    EventKind,
    NewEvent,
    Rejected,
    StoredEvent,
    append,
    find_user,
    read_tail,
)
from sql.generations import register, seal, stage

DAY_MS = 86_400_000
NOW_MS = 20_000 * DAY_MS
ENCODER = "encoder-1"


def vector(*numbers: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(numbers, dtype=np.float32)


def item(
    item_id: str, title: str = "A title", version: int | None = None, **vectors: Any
) -> ItemPut:
    digest = hashlib.sha256(title.encode()).hexdigest()
    return ItemPut(item_id, ItemBody(title=title), title.lower(), digest, version, vectors)


def put(engine: Engine, *item_ids: str) -> list[PutResult]:
    return put_items(engine, [item(item_id, f"Title of {item_id}") for item_id in item_ids], NOW_MS)


def view(event_id: str, item_id: str = "i1", user_id: str = "u1", **more: Any) -> NewEvent:
    return NewEvent(user_id, event_id, EventKind.VIEW, item_id, **more)


def rating(event_id: str, value: float, item_id: str = "i1", user_id: str = "u1") -> NewEvent:
    return NewEvent(user_id, event_id, EventKind.RATING, item_id, value=value)


def undo(event_id: str, undoes: str, user_id: str = "u1") -> NewEvent:
    return NewEvent(user_id, event_id, EventKind.UNDO, undoes=undoes)


def search(event_id: str, text: str, user_id: str = "u1", **vectors: Any) -> NewEvent:
    return NewEvent(user_id, event_id, EventKind.SEARCH, text=text, vectors=vectors)


def post(
    engine: Engine, *requests: list[NewEvent], at_ms: int = NOW_MS, keep: bool = False
) -> list[list[Appended] | Rejected]:
    return append(engine, requests, received_at_ms=at_ms, keep_unknown_items=keep)


def seqs(answer: list[Appended] | Rejected) -> list[int]:
    """The numbers given to a request that must have been stored."""
    assert isinstance(answer, list), answer
    return [appended.user_seq for appended in answer]


def refused(answer: list[Appended] | Rejected) -> list[tuple[int, str, int]]:
    """(index, field, status) of each problem of a request that must have been refused."""
    assert isinstance(answer, Rejected), answer
    return [(problem.index, problem.field, problem.status) for problem in answer.problems]


def log(engine: Engine, user_id: str = "u1") -> list[StoredEvent]:
    with read_snapshot(engine) as conn:
        user = find_user(conn, user_id)
        return read_tail(conn, user.user_key, 0, 100_000) if user else []


def key_of(engine: Engine, user_id: str = "u1") -> int:
    with read_snapshot(engine) as conn:
        user = find_user(conn, user_id)
    assert user is not None
    return user.user_key


def generation(engine: Engine, generation_id: str, *, created_at_ms: int = NOW_MS) -> None:
    """Register, seal and stage."""
    register(engine, generation_id, encoder_id=ENCODER, catalog_seq=0, created_at_ms=created_at_ms)
    seal(engine, generation_id, manifest_digest=f"sha-{generation_id}", metrics={})
    stage(engine, generation_id)
