"""Retention: what is older than a setting goes, in small transactions beside the day's traffic.

Of a user, events go from the oldest on, under the row lock under which events are appended, and
`users.trimmed_seq` grows: every session folded before is void, so state(n) stays the fold of what
the log holds. Dislikes and hides in force stay. Numbers are never given again. What is gone cannot
be undone any more (409, as for an unknown event), and is no duplicate when it is sent once more.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, delete, func, or_, select, update
from sqlalchemy.sql.expression import FromClause

from sql.activity import hour_of
from sql.event import EXCLUDING_KINDS, TEXT_KINDS
from sql.settings import RetentionSettings
from sql.tables import (
    events,
    exposures,
    generations,
    item_activity,
    sessions,
    text_vectors,
    users,
)
from sql.transactions import read_snapshot, write

DAY_MS = 86_400_000
CHUNK = 500
"""Rows deleted in a transaction."""
PAGE = 1_000
"""Users looked up at a time."""

_UNKNOWN_ENCODER = "unknown"


@dataclass(frozen=True, slots=True)
class Trim:
    """How a retention runs: the pause after each transaction, and who is told of its rows."""

    pause_s: float = 0.005
    sleep: Callable[[float], None] = time.sleep
    progress: Callable[[int], object] = field(default=lambda rows: None)

    def rest(self, rows: int) -> None:
        """Tell, and let others write."""
        self.progress(rows)
        self.sleep(self.pause_s)


def retain(
    engine: Engine, settings: RetentionSettings, *, now_ms: int, trim: Trim | None = None
) -> dict[str, int]:
    """Delete what is older than the settings say; rows by what they were."""
    trim = trim or Trim()

    def horizon(days: int | None) -> int | None:
        return None if days is None else now_ms - days * DAY_MS

    report = {"events": 0, "texts": 0, "exposures": 0, "activity": 0}
    if (before_ms := horizon(settings.events_days)) is not None:
        report["events"] = trim_events(engine, before_ms, trim=trim)
    if (before_ms := horizon(settings.text_days)) is not None:
        report["texts"] = trim_events(engine, before_ms, texts_only=True, trim=trim)
    if (before_ms := horizon(settings.exposures_days)) is not None:
        report["exposures"] = _delete(engine, exposures, exposures.c.at_ms < before_ms, trim)
    if (before_ms := horizon(settings.activity_days)) is not None:
        old = item_activity.c.hour < hour_of(before_ms)
        report["activity"] = _delete(engine, item_activity, old, trim)
    report["text_vectors"] = _prune_text_vectors(engine, trim)
    return report


def trim_events(
    engine: Engine, before_ms: int, *, texts_only: bool = False, trim: Trim | None = None
) -> int:
    """Delete the events received before `before_ms` (only searches and comments, if so asked), a
    transaction a user and `CHUNK` rows; return how many."""
    trim = trim or Trim()
    goes = _goes(before_ms, texts_only)
    deleted = 0
    for user_key in _users_with(engine, goes):
        while rows := _trim_user(engine, user_key, before_ms, goes):
            deleted += rows
            trim.rest(rows)
    return deleted


def _goes(before_ms: int, texts_only: bool) -> ColumnElement[bool]:
    """Old events, but for the dislikes and hides that nothing took back."""
    later = events.alias("later")
    undone = (
        select(later.c.user_seq)
        .where(later.c.user_key == events.c.user_key, later.c.undoes_seq == events.c.user_seq)
        .exists()
    )
    kinds = (
        events.c.kind.in_(sorted(TEXT_KINDS))
        if texts_only
        else or_(events.c.kind.not_in(sorted(EXCLUDING_KINDS)), undone)
    )
    return and_(events.c.received_at_ms < before_ms, kinds)


def _users_with(engine: Engine, goes: ColumnElement[bool]) -> Iterator[int]:
    """Keys of the users of whom something goes; one walk along the log."""
    after = -1
    while True:
        with read_snapshot(engine) as conn:
            page = conn.execute(
                select(events.c.user_key)
                .where(events.c.user_key > after, goes)
                .distinct()
                .order_by(events.c.user_key)
                .limit(PAGE)
            )
            keys = list(page.scalars())
        if not keys:
            return
        yield from keys
        after = keys[-1]


def _trim_user(engine: Engine, user_key: int, before_ms: int, goes: ColumnElement[bool]) -> int:
    with write(engine) as conn:
        trimmed_seq = _lock(conn, user_key)
        if trimmed_seq is None:
            return 0
        # Never past the first event that stays by its time: where a replica's clock was ahead, an
        # undo must not go before what it undoes.
        first_young = (
            select(func.min(events.c.user_seq))
            .where(events.c.user_key == user_key, events.c.received_at_ms >= before_ms)
            .scalar_subquery()
        )
        find = (
            select(events.c.user_seq)
            .where(events.c.user_key == user_key, goes)
            .where(events.c.user_seq < func.coalesce(first_young, 2**62))
            .order_by(events.c.user_seq)
            .limit(CHUNK)
        )
        seqs = list(conn.execute(find).scalars())
        if not seqs:
            return 0
        conn.execute(
            delete(events).where(events.c.user_key == user_key, events.c.user_seq.in_(seqs))
        )
        conn.execute(delete(sessions).where(sessions.c.user_key == user_key))
        conn.execute(
            update(users)
            .where(users.c.user_key == user_key)
            .values(trimmed_seq=max(seqs[-1], trimmed_seq + 1))
        )
        return len(seqs)


def _lock(conn: Connection, user_key: int) -> int | None:
    """The user's `trimmed_seq`, the row locked as an append locks it; None: erased meanwhile."""
    find = select(users.c.trimmed_seq).where(users.c.user_key == user_key)
    found: int | None = conn.execute(find.with_for_update(key_share=True)).scalar()
    return found


def _prune_text_vectors(engine: Engine, trim: Trim) -> int:
    """Vectors of encoders that no kept generation reads (none at all before the first one)."""
    with read_snapshot(engine) as conn:
        kept = set(
            conn.execute(
                select(generations.c.encoder_id).where(generations.c.state != "pruned").distinct()
            ).scalars()
        ) - {_UNKNOWN_ENCODER}
    if not kept:
        return 0
    return _delete(engine, text_vectors, text_vectors.c.encoder_id.not_in(sorted(kept)), trim)


def _delete(engine: Engine, table: FromClause, old: ColumnElement[bool], trim: Trim) -> int:
    """Delete those rows of `table`, `CHUNK` a transaction; return how many."""
    key: list[Any] = list(table.primary_key)
    some = select(*key).where(old).order_by(*key).limit(CHUNK)
    deleted = 0
    while True:
        with write(engine) as conn:
            rows = conn.execute(some).all()
            for row in rows:
                same = and_(*(column == value for column, value in zip(key, row, strict=True)))
                conn.execute(delete(table).where(same))  # type: ignore[arg-type]
        deleted += len(rows)
        if len(rows) < CHUNK:
            return deleted
        trim.rest(len(rows))
