"""Receipts of erasures: what was removed, what is still to be rewritten, what cannot be.

The database keeps the facts (counts, generations, times); the sentences are made here when a
receipt is read, because what still holds something changes: a generation is pruned, a job is done.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, Select, bindparam, func, select, update

from sql.batch import batch_of, batch_rows, insert_into
from sql.erasure_ledger import Erased
from sql.tables import erasures, generations
from sql.transactions import write

PENDING = "{}"
"""The receipt of an erasure that the ledger knows and this database has not carried out yet."""

SNAPSHOT_SLACK_MS = 60_000
"""A night notes its time, then reads the log: who came in between may be in its snapshot too."""

MAX_GENERATIONS = 1_000


@dataclass(frozen=True, slots=True)
class Receipt:
    """An erasure as it stands. `removed`: rows by table. `weights`: generations not yet pruned that
    may have been trained on the user's events. `rewritten`: what the job did, empty before it.
    `completed_at_ms`: when the job had rewritten every stored copy; None before it."""

    erasure_id: str
    erased_at_ms: int
    completed_at_ms: int | None
    removed: Mapping[str, int]
    weights: Sequence[str]
    rewritten: Mapping[str, Any]
    dialect: str

    @property
    def to_rewrite(self) -> tuple[str, ...]:
        """What still holds a copy until `moonlark erase --finish` has run."""
        if self.completed_at_ms is not None:
            return ()
        if self.dialect == "sqlite":
            freed = "freed pages and the write-ahead log of the SQLite file"
        else:
            freed = "dead rows in the tables of Postgres, until they are vacuumed"
        return ("work files of unfinished nights", freed)

    @property
    def cannot_rewrite(self) -> tuple[str, ...]:
        """What no job takes back, and when it goes."""
        found = [
            "counts of item_activity: they name no user; they go by age",
            "ids that events named and that never were items: rows of items that name no user",
            "rows that `moonlark ingest` rejected: files of that machine, until they are deleted"
            " (`moonlark erase --finish` deletes those of its own MOONLARK_STATE_DIR)",
        ]
        if self.weights:
            found.append(
                "weights, neighbours and activity learned while the events were there"
                f" ({', '.join(self.weights)}): they go when the generations are pruned"
            )
        if self.dialect == "postgresql":
            found.append(
                "Postgres: free space within pages until it is used again, the write-ahead log"
                " until it is recycled"
            )
        found.append(
            "backups and file system snapshots: until they age out; after a restore the ledger"
            " erases again"
        )
        return tuple(found)


def facts(removed: Mapping[str, int], weights: Sequence[str]) -> str:
    """What the database keeps of a receipt."""
    return json.dumps({"removed": dict(removed), "weights": list(weights)}, sort_keys=True)


def enter(conn: Connection, entries: Iterable[Erased], receipt: str) -> None:
    """Insert erasures; those that are there stay as they are."""
    rows = [{**entry._asdict(), "receipt": receipt} for entry in entries]
    if rows:
        conn.execute(insert_into(conn.dialect.name, erasures).on_conflict_do_nothing(), rows)


def settle(conn: Connection, erasure_id: str, receipt: str, *, only_pending: bool = False) -> None:
    """Give an erasure that was carried out here its receipt; its copies are to be rewritten."""
    change = update(erasures).where(erasures.c.erasure_id == erasure_id)
    if only_pending:
        change = change.where(erasures.c.receipt == PENDING)
    conn.execute(change.values(receipt=receipt, completed_at_ms=None))


def trained_on(conn: Connection, user_created_at_ms: int) -> list[str]:
    """Generations not pruned whose weights may come from events of a user of that time."""
    rows = conn.execute(
        select(generations.c.generation_id)
        .where(
            generations.c.state != "pruned",
            generations.c.created_at_ms + SNAPSHOT_SLACK_MS >= user_created_at_ms,
        )
        .order_by(generations.c.created_at_ms.desc())
        .limit(MAX_GENERATIONS)
    )
    return list(rows.scalars())


_COLUMNS = (
    erasures.c.erasure_id,
    erasures.c.erased_at_ms,
    erasures.c.completed_at_ms,
    erasures.c.receipt,
)


def read_receipt(conn: Connection, erasure_id: str) -> Receipt | None:
    """The receipt as it stands now; None where no erasure has that id."""
    row = conn.execute(select(*_COLUMNS).where(erasures.c.erasure_id == erasure_id)).first()
    if row is None:
        return None
    stored = json.loads(row[3])
    weights = stored.get("weights", [])
    pruned = set(
        conn.execute(
            select(generations.c.generation_id).where(
                generations.c.generation_id.in_(weights), generations.c.state == "pruned"
            )
        ).scalars()
    )
    return Receipt(
        erasure_id=row[0],
        erased_at_ms=row[1],
        completed_at_ms=row[2],
        removed=stored.get("removed", {}),
        weights=[generation for generation in weights if generation not in pruned],
        rewritten=stored.get("rewritten", {}),
        dialect=conn.dialect.name,
    )


def incomplete(conn: Connection) -> list[str]:
    """Ids of the erasures whose copies are still to be rewritten, the oldest first."""
    return list(
        conn.execute(
            select(erasures.c.erasure_id)
            .where(erasures.c.completed_at_ms.is_(None), erasures.c.receipt != PENDING)
            .order_by(erasures.c.erased_at_ms, erasures.c.erasure_id)
        ).scalars()
    )


def open_since_ms(conn: Connection) -> int | None:
    """When the oldest erasure was asked for that is not completed, or not carried out; None without
    one."""
    is_open = erasures.c.completed_at_ms.is_(None)
    found: int | None = conn.scalar(select(func.min(erasures.c.erased_at_ms)).where(is_open))
    return found


def complete(
    engine: Engine, erasure_ids: Iterable[str], rewritten: Mapping[str, Any], *, at_ms: int
) -> None:
    """Say in the receipts that every stored copy was rewritten, and how."""
    for erasure_id in erasure_ids:
        with write(engine) as conn:
            find = select(erasures.c.receipt).where(erasures.c.erasure_id == erasure_id)
            stored = json.loads(conn.execute(find.with_for_update()).scalar_one())
            stored["rewritten"] = dict(rewritten)
            conn.execute(
                update(erasures)
                .where(erasures.c.erasure_id == erasure_id)
                .values(receipt=json.dumps(stored, sort_keys=True), completed_at_ms=at_ms)
            )


def erased_before(conn: Connection, hmacs: Iterable[str]) -> dict[str, int]:
    """When those of `hmacs` who were erased were erased last."""
    rows = conn.execute(_erased_before_sql(conn.dialect.name), batch_rows((h,) for h in hmacs))
    return {row[0]: int(row[1]) for row in rows}


@cache
def _erased_before_sql(dialect: str) -> Select[Any]:
    batch = batch_of(dialect, user_hmac=str)
    return (
        select(erasures.c.user_hmac, func.max(erasures.c.erased_at_ms))
        .join_from(batch, erasures, erasures.c.user_hmac == batch.c.user_hmac)
        .group_by(erasures.c.user_hmac)
    )


_SINCE = select(erasures.c.user_hmac).where(erasures.c.erased_at_ms >= bindparam("since_ms"))


def erased_since(conn: Connection, since_ms: int) -> set[str]:
    """HMACs of those erased at or after `since_ms`: for caches that know users by id."""
    return set(conn.execute(_SINCE, {"since_ms": since_ms}).scalars())
