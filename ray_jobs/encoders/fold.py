"""Events become a session, a session becomes a user vector: without torch, by day and by night.

    session = fold(encoder, base, tail_of_the_log)
    vector = user_vector(encoder, session)          # what the shards are searched with

The twin of `user_lstm` (tests hold the two within 1e-5). By day and by night a user's events go
through one compiled loop (`lstm_walk`), which gives the same bits wherever a history is cut.

Shapes: T events, E text_dim, D dim, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.config import UNDO
from ray_jobs.encoders.remembered import remembered
from ray_jobs.encoders.session import Session
from ray_jobs.encoders.user_encoder import UserEncoder

__all__ = [
    "FoldEvent",
    "Session",
    "UserEncoder",
    "effective",
    "event_time",
    "fold",
    "user_vector",
]


@dataclass(frozen=True, slots=True)
class FoldEvent:
    """One event of the log as the fold reads it.

    `vector` is the BERT vector (E,) of the item's text at append, or of the search or comment;
    None where there was no text: the learned unknown vector stands in. `ordinal` is None for an
    event without a known item. `undoes_seq` is the user_seq that an undo, or a later rating of the
    same item, takes back. `at_ms` (see `event_time`) is read for purchases only: a thing bought
    may be shown again after a while.
    """

    user_seq: int
    kind: str
    ordinal: int | None
    vector: NDArray[np.float32] | None
    value: float | None = None
    undoes_seq: int | None = None
    at_ms: int = 0


def event_time(occurred_at_ms: int, received_at_ms: int) -> int:
    """When an event counts as done, ms: when it occurred, and not later than it was received.

    A purchase of last year that is sent today is last year's; a client whose clock is ahead does
    not keep what was bought out of the lists for longer than from today on.
    """
    return min(occurred_at_ms, received_at_ms)


def effective(events: Sequence[FoldEvent]) -> list[FoldEvent]:
    """The events that count: without undos, and without what an undo or a re-rating took back."""
    if len(events) == 1:  # what the day folds for almost every answer; nothing else takes it back
        return [] if events[0].kind == UNDO else [events[0]]
    undone = {event.undoes_seq for event in events if event.undoes_seq is not None}
    return [event for event in events if event.kind != UNDO and event.user_seq not in undone]


def fold(encoder: UserEncoder, base: Session | None, events: Sequence[FoldEvent]) -> Session:
    """The session after `events`, from `base` or from nothing.

    `events` are consecutive log rows behind `base`, in order of `user_seq`. What is undone among
    them is dropped; `user_seq` advances over all of them.

    Raises:
        ValueError: events out of order, not behind the base, or one that undoes into the base (the
            base is then invalid: refold from an older one or from nothing).
        SessionError: a base of another encoder's size.
    """
    start = encoder.zero() if base is None else base
    _check_order(start.user_seq, events)
    if not events:
        return start
    counted = effective(events)
    h, c, pooled = start.h, start.c, start.pooled
    if counted:
        h, c, pooled = encoder.walk(counted, start)
    steps = start.steps + len(counted)
    return Session(events[-1].user_seq, h, c, pooled, steps, *remembered(start, counted))


def user_vector(encoder: UserEncoder, session: Session) -> NDArray[np.float32] | None:
    """The unit user vector (D,), or None for a user of whom nothing was fed yet.

    Raises:
        SessionError: a session of another encoder's size.
    """
    encoder.check_fits(session)
    if session.steps == 0:
        return None
    pooled = encoder.pooled_state(session.h, session.pooled, session.steps)
    return encoder.user_vector(pooled)


def _check_order(base_seq: int, events: Sequence[FoldEvent]) -> None:
    last = base_seq
    for event in events:
        if event.user_seq <= last:
            raise ValueError(f"event {event.user_seq} does not follow {last}")
        if event.undoes_seq is not None and event.undoes_seq <= base_seq:
            raise ValueError(
                f"event {event.user_seq} undoes {event.undoes_seq}, inside the base at {base_seq}"
            )
        last = event.user_seq
