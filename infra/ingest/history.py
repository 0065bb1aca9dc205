"""Events of the past into the log: sorted once by time, ties in file order, because the order of
the log is the order in which the model reads.

A user who already has later events would get his past after his present, so such rows are refused
unless `late` is asked for; then they sort last. The same file may be ingested twice, or again after
a crash: what is stored already is a duplicate by its `event_id`.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from infra.ingest.columns import EVENT_FIELDS, Columns
from infra.ingest.errors import TooManyEvents
from infra.ingest.pace import Pace, chunks
from infra.ingest.readers import Rows
from infra.ingest.rejects import Rejects
from infra.ingest.rows import EventIds, EventRow, to_event
from sql.batch import batch_of, batch_rows
from sql.engine import read_snapshot
from sql.erasure_ledger import ErasureKey
from sql.events import Problem, Rejected, append
from sql.ids import BadInput
from sql.tables import events as events_table
from sql.tables import users

MAX_EVENTS_IN_MEMORY = 5_000_000
"""Sorting needs all events at once, about 400 bytes each: 2 GB at the limit."""

LOOK_UP = 10_000
"""Users or events in one query."""

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class EventsReport:
    """What became of the rows of a history."""

    stored: int
    duplicates: int


def read_event_rows(
    source: Rows,
    columns: Columns,
    rejects: Rejects,
    *,
    limit: int = MAX_EVENTS_IN_MEMORY,
    progress: Progress | None = None,
) -> list[EventRow]:
    """The events of a file, in file order; bad rows go to `rejects`.

    Raises:
        TooManyEvents: more than `limit`.
    """
    ids = EventIds()
    found: list[EventRow] = []
    for number, cells in source.rows:
        _advance(progress, 1)
        event = (cells,) if isinstance(cells, BadInput) else to_event(number, cells, columns, ids)
        if isinstance(event, EventRow):
            found.append(event)
            if len(found) > limit:
                raise TooManyEvents(source.path, limit)
        else:
            rejects.add(number, event)
    return found


def unused_columns(source: Rows, columns: Columns) -> list[str]:
    """Columns of a history file that no field takes. Raises `BadColumns`."""
    return columns.check(EVENT_FIELDS, source.columns)


def write_events(
    engine: Engine,
    events: Iterable[EventRow],
    *,
    rejects: Rejects,
    received_at_ms: int,
    late: bool = False,
    keep_unknown_items: bool = False,
    erasures: ErasureKey | None = None,
    pace: Pace | None = None,
    progress: Progress | None = None,
) -> EventsReport:
    """Append events in order of time, in paced transactions.

    Refused rows go to `rejects`: of unknown items (unless kept), another body under a known
    `event_id`, from before their user was erased (where `erasures` is given), earlier than what the
    user already has (unless `late`). The daily limit is for live events; history is outside it, and
    its activity counts where it happened.
    """
    pace = pace or Pace()
    ordered = sorted(events, key=lambda e: e.event.occurred_at_ms)  # stable: ties in file order
    if not late:
        kept = _without_late(engine, ordered, rejects)
        _advance(progress, len(ordered) - len(kept))
        ordered = kept
    stored = duplicates = 0
    for chunk in chunks(ordered, pace.events):
        fresh, known = _append(engine, chunk, rejects, received_at_ms, keep_unknown_items, erasures)
        stored, duplicates = stored + fresh, duplicates + known
        _advance(progress, len(chunk))
        pace.rest()
    return EventsReport(stored, duplicates)


def _append(
    engine: Engine,
    chunk: Sequence[EventRow],
    rejects: Rejects,
    received_at_ms: int,
    keep_unknown_items: bool,
    erasures: ErasureKey | None,
) -> tuple[int, int]:
    """Append what can be; a request is all or nothing, so the refused rows are taken out first.

    One request a transaction: if several shared one, a refused request would come after the others
    when it is tried again, and its users' order would be lost.
    """
    pending = list(chunk)
    while pending:
        (answer,) = append(
            engine,
            [[row.event for row in pending]],
            received_at_ms=received_at_ms,
            keep_unknown_items=keep_unknown_items,
            history=True,
            erasures=erasures,
        )
        if not isinstance(answer, Rejected):
            duplicates = sum(event.duplicate for event in answer)
            return len(answer) - duplicates, duplicates
        by_index: defaultdict[int, list[Problem]] = defaultdict(list)
        for problem in answer.problems:
            by_index[problem.index].append(problem)
        assert by_index, "a rejected request names a problem"
        for index, problems in sorted(by_index.items()):
            reasons = [BadInput(p.field, p.value, p.accepted) for p in problems]
            rejects.add(pending[index].row, reasons)
        pending = [row for index, row in enumerate(pending) if index not in by_index]
    return 0, 0


def _without_late(engine: Engine, ordered: Sequence[EventRow], rejects: Rejects) -> list[EventRow]:
    """`ordered` without what lies before an event that its user already has, unless it is that."""
    latest = _latest_by_user(engine, {row.event.user_id for row in ordered})
    late = {
        row.row for row in ordered if row.event.occurred_at_ms < latest.get(row.event.user_id, -1)
    }
    if not late:
        return list(ordered)
    known = _known_ids(engine, [row for row in ordered if row.row in late])
    kept: list[EventRow] = []
    for row in ordered:
        event = row.event
        if row.row in late and (event.user_id, event.event_id) not in known:
            accepted = (
                f"{latest[event.user_id]} ms or later: the user has events up to there"
                " (`--late` appends it after them)"
            )
            rejects.add(row.row, [BadInput("occurred_at", event.occurred_at_ms, accepted)])
        else:
            kept.append(row)
    return kept


def _latest_by_user(engine: Engine, user_ids: Collection[str]) -> dict[str, int]:
    """occurred_at_ms of the latest event of those users who have any."""
    batch = batch_of(engine.dialect.name, user_id=str)
    query = (
        select(users.c.user_id, func.max(events_table.c.occurred_at_ms))
        .join_from(batch, users, users.c.user_id == batch.c.user_id)
        .join(events_table, events_table.c.user_key == users.c.user_key)
        .group_by(users.c.user_id)
    )
    latest: dict[str, int] = {}
    for chunk in chunks(sorted(user_ids), LOOK_UP):
        with read_snapshot(engine) as conn:
            rows = conn.execute(query, batch_rows((user_id,) for user_id in chunk))
            latest.update((user_id, at_ms) for user_id, at_ms in rows)
    return latest


def _known_ids(engine: Engine, rows: Sequence[EventRow]) -> set[tuple[str, str]]:
    """(user_id, event_id) of those events that are stored already."""
    batch = batch_of(engine.dialect.name, user_id=str, event_id=str)
    query = (
        select(batch.c.user_id, batch.c.event_id)
        .join_from(batch, users, users.c.user_id == batch.c.user_id)
        .join(
            events_table,
            (events_table.c.user_key == users.c.user_key)
            & (events_table.c.event_id == batch.c.event_id),
        )
    )
    known: set[tuple[str, str]] = set()
    for chunk in _identities(rows):
        with read_snapshot(engine) as conn:
            known.update((user, event) for user, event in conn.execute(query, batch_rows(chunk)))
    return known


def _identities(rows: Sequence[EventRow]) -> Iterator[list[tuple[str, str]]]:
    return chunks(((row.event.user_id, row.event.event_id) for row in rows), LOOK_UP)


def _advance(progress: Progress | None, count: int) -> None:
    if progress is not None:
        progress(count)
