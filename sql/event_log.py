"""Appending to the log: group commit of many requests, by the recipe of DESIGN.md.

READ COMMITTED; insert the missing users and lock all users of the group, both in the byte order of
their ids (so that two groups cannot wait for each other); read what the log knows *after* the
locks; give gapless numbers; append; count the activity; commit. A user's numbers are given under
that user's row lock, so commit order is number order and no reader ever steps over a number.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    bindparam,
    exists,
    insert,
    literal_column,
    select,
    update,
)

from sql.batch import batch_of, batch_rows, insert_into
from sql.catalog_reads import resolve_items
from sql.erasure_ledger import ErasureKey
from sql.errors import StoreBusy
from sql.event import Appended, EventKind, NewEvent, Problem, Rejected, shape_problems
from sql.event_rules import Book, Draft, Known, UserState
from sql.prepared import fetch, run_each
from sql.tables import events, item_activity, text_vectors, users
from sql.transactions import shown, write
from sql.unlisted import Unlisted, look_up, reserve
from sql.user_rows import delete_users, insert_users, lock_users, mark_returned
from sql.vectors import to_bytes

MAX_GROUP_EVENTS = 50_000
MAX_ATTEMPTS = 5
ACTIVITY_SLOTS = 8

Answer = list[Appended] | Rejected


class _UserErased(Exception):
    """A user of the group was erased between the insert and the lock: roll back, begin again."""


def append(
    engine: Engine,
    requests: Sequence[Sequence[NewEvent]],
    *,
    received_at_ms: int,
    keep_unknown_items: Sequence[bool] | bool = False,
    history: bool = False,
    erasures: ErasureKey | None = None,
) -> list[Answer]:
    """Append all requests in one transaction; answer each in its order.

    A request is stored whole or not at all (`Rejected` names each problem); a rejected one does not
    hinder the others. `keep_unknown_items`: one for all, or one a request. `history`: all of them
    are a bulk of past events: they are outside the daily limit, and `item_activity` counts them in
    the hour in which they happened. `erasures`: with it, events that happened before their user was
    erased are refused (410); it is asked for new users only, so it costs the others nothing.

    Raises `ValueError` for a group above `MAX_GROUP_EVENTS`, `StoreUnavailable` where nothing was
    committed or it is not known (send it again: the same event ids make that harmless).
    """
    if sum(map(len, requests)) > MAX_GROUP_EVENTS:
        raise ValueError(f"requests: accepted are at most {MAX_GROUP_EVENTS} events a group")
    if isinstance(keep_unknown_items, bool):
        keep_unknown_items = [keep_unknown_items] * len(requests)
    if len(keep_unknown_items) != len(requests):
        raise ValueError("keep_unknown_items: accepted is one value, or one a request")
    answers: list[Answer] = [[] for _ in requests]
    well_formed: list[int] = []
    for i, request in enumerate(requests):
        if problems := shape_problems(request):
            answers[i] = Rejected(tuple(problems))
        elif request:
            well_formed.append(i)
    if not well_formed:
        return answers
    group = [(requests[i], keep_unknown_items[i]) for i in well_formed]
    for _ in range(MAX_ATTEMPTS):
        try:
            with write(engine) as conn:
                stored = _append_group(conn, group, received_at_ms, history, erasures)
        except _UserErased:
            continue
        for i, answer in zip(well_formed, stored, strict=True):
            answers[i] = answer
        return answers
    raise StoreBusy(shown(engine), f"users of the group were erased {MAX_ATTEMPTS} times meanwhile")


def _append_group(
    conn: Connection,
    group: Sequence[tuple[Sequence[NewEvent], bool]],
    received_at_ms: int,
    history: bool,
    erasures: ErasureKey | None,
) -> list[Answer]:
    """The transaction."""
    flat = [event for request, _ in group for event in request]
    user_ids = sorted({event.user_id for event in flat}, key=str.encode)
    created, locked = _users_of(conn, user_ids, received_at_ms, erasures)
    book = _open_book(conn, flat, locked, received_at_ms)
    book.history = history
    kept = {e.item_id for request, keep in group if keep for e in request if e.item_id is not None}
    unlisted: Unlisted | None = None
    if unknown := kept - book.items.keys():
        unlisted = look_up(conn, unknown)
        book.items = {**book.items, **unlisted.listed}
        book.unlisted = unlisted.ordinals
    answers = [_decide(book, request, keep) for request, keep in group]
    if unlisted is not None:
        named = (row.known.item_id for row in book.rows if row.known.item_id is not None)
        reserve(conn, unlisted, named, received_at_ms)
    _store(conn, book)
    touched = {row.user_key for row in book.rows}
    if unused := [book.keys[user_id] for user_id in created if book.keys[user_id] not in touched]:
        # They were made for requests that were rejected.
        delete_users(conn, unused)
    return answers


def _users_of(
    conn: Connection, user_ids: Sequence[str], received_at_ms: int, erasures: ErasureKey | None
) -> tuple[list[str], dict[str, tuple[int, UserState]]]:
    """Who was inserted, and everybody's key and counters, locked."""
    # SQLite's one writer has the whole database by now, so whoever is there stays. In Postgres all
    # are inserted before any is locked: else two groups may wait for each other.
    locked = lock_users(conn, user_ids) if conn.dialect.name == "sqlite" else {}
    missing = [user_id for user_id in user_ids if user_id not in locked]
    if not missing:
        return [], locked
    created = insert_users(conn, missing, received_at_ms)
    if created and erasures is not None:
        mark_returned(conn, created, erasures)
    locked |= lock_users(conn, missing)
    if len(locked) != len(user_ids):
        raise _UserErased
    return created, locked


def _decide(book: Book, request: Sequence[NewEvent], keep: bool) -> Answer:
    draft = Draft(book, keep_unknown_items=keep)
    taken = [draft.take(index, event) for index, event in enumerate(request)]
    if problems := tuple(answer for answer in taken if isinstance(answer, Problem)):
        return Rejected(problems)
    draft.merge()
    return [answer for answer in taken if isinstance(answer, Appended)]


def _open_book(
    conn: Connection,
    flat: Sequence[NewEvent],
    locked: dict[str, tuple[int, UserState]],
    received_at_ms: int,
) -> Book:
    """Read what the log and the catalog know of the group. Only called after the locks."""
    keys = {user_id: user_key for user_id, (user_key, _) in locked.items()}
    dialect = conn.dialect.name
    names = {(keys[e.user_id], e.event_id) for e in flat}
    names |= {(keys[e.user_id], e.undoes) for e in flat if e.undoes is not None}
    known: dict[tuple[int, str], Known] = {}
    undone: dict[tuple[int, int], int] = {}
    for row in fetch(conn, _known_sql(dialect), batch_rows(names)):
        known[row[0], row[1]] = Known(*row[2:-1])
        if row[-1] is not None:
            undone[row[0], row[2]] = row[-1]
    rated = {
        (keys[e.user_id], e.item_id)
        for e in flat
        if e.kind == EventKind.RATING and e.item_id is not None
    }
    ratings: dict[tuple[int, str], Known | None] = {}
    if rated:
        for row in fetch(conn, _ratings_sql(dialect), batch_rows(rated)):
            ratings[row[0], row[4]] = Known(*row[2:])
    item_ids = {e.item_id for e in flat if e.item_id is not None}
    return Book(
        received_at_ms=received_at_ms,
        keys=keys,
        users=dict(locked.values()),
        items=resolve_items(conn, item_ids),
        events=known,
        undone=undone,
        ratings=ratings,
    )


_KNOWN_COLUMNS = (
    events.c.user_key,
    events.c.event_id,
    *(events.c[name] for name in Known._fields),
)


@cache
def _known_sql(dialect: str) -> Select[Any]:
    """Events by (user_key, event_id), each with the number of the event that undid it."""
    batch = batch_of(dialect, user_key=int, event_id=str)
    later = events.alias("later")
    undone_by = (
        select(later.c.user_seq)
        .where(later.c.user_key == events.c.user_key, later.c.undoes_seq == events.c.user_seq)
        .scalar_subquery()
    )
    return select(*_KNOWN_COLUMNS, undone_by).join_from(
        batch,
        events,
        (events.c.user_key == batch.c.user_key) & (events.c.event_id == batch.c.event_id),
    )


@cache
def _ratings_sql(dialect: str) -> Select[Any]:
    """The rating in force of each (user_key, item_id); there is at most one."""
    batch = batch_of(dialect, user_key=int, item_id=str)
    later = events.alias("later")
    undone = exists().where(
        later.c.user_key == events.c.user_key, later.c.undoes_seq == events.c.user_seq
    )
    return (
        select(*_KNOWN_COLUMNS)
        .join_from(
            batch,
            events,
            (events.c.user_key == batch.c.user_key) & (events.c.item_id == batch.c.item_id),
        )
        .where(events.c.kind == literal_column("'rating'"), ~undone)
    )


_ROW = ("user_key", "event_id", "occurred_at_ms", *Known._fields)
_INSERT_EVENTS = insert(events).values({name: bindparam(name) for name in _ROW})
_VECTOR = ("user_key", "user_seq", "encoder_id", "vector")
_INSERT_VECTORS = insert(text_vectors).values({name: bindparam(name) for name in _VECTOR})
_COUNTERS = ("seq", "of_day", "of_day_count", "key")
_UPDATE_USERS = (
    update(users)
    .where(users.c.user_key == bindparam("key"))
    .values(
        last_user_seq=bindparam("seq"), day=bindparam("of_day"), day_count=bindparam("of_day_count")
    )
)
_COUNT = ("hour", "ordinal", "kind", "slot", "n")


def _store(conn: Connection, book: Book) -> None:
    if not book.rows:
        return
    rows = [(row.user_key, row.event_id, row.occurred_at_ms, *row.known) for row in book.rows]
    run_each(conn, _INSERT_EVENTS, _ROW, rows)
    vectors = (
        (user_key, user_seq, encoder_id, to_bytes("vectors", vector))
        for user_key, user_seq, event in book.vectors
        for encoder_id, vector in event.vectors.items()
    )
    run_each(conn, _INSERT_VECTORS, _VECTOR, vectors)
    touched = {row.user_key for row in book.rows}
    counters = (
        (state.last_user_seq, state.day, state.day_count, key)
        for key, state in book.users.items()
        if key in touched
    )
    run_each(conn, _UPDATE_USERS, _COUNTERS, counters)
    # One slot a transaction: two groups meet on a hot item's row once in ACTIVITY_SLOTS times.
    # Sorted, so that where they meet, they do not wait for each other in a circle. SQLite has one
    # writer, who meets nobody, and fewer rows are fewer pages.
    slot = 0 if conn.dialect.name == "sqlite" else min(touched) % ACTIVITY_SLOTS
    counts = (
        (hour, ordinal, kind, slot, n)
        for (hour, ordinal, kind), n in sorted(book.activity.items())
        if n
    )
    run_each(conn, _count_sql(conn.dialect.name), _COUNT, counts)


@cache
def _count_sql(dialect: str) -> Any:
    statement = insert_into(dialect, item_activity)
    return statement.values({name: bindparam(name) for name in _COUNT}).on_conflict_do_update(
        index_elements=["hour", "ordinal", "kind", "slot"],
        set_={"n": item_activity.c.n + statement.excluded.n},
    )
