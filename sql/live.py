"""The live pointer, and who can follow it: flips (append-only) and the replicas' leases.

Publishing and rolling back are one and the same: a compare-and-set, by inserting the next flip.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from sql.batch import insert_into
from sql.errors import FlipLost, HoldSet
from sql.generation_registry import lock_generation, mark_published
from sql.ids import BadInput, check_id, is_storable
from sql.tables import live, replicas
from sql.transactions import read_snapshot, write

MAX_WORDS_CHARACTERS = 500
BY_NIGHT = "night"
"""`who` of a flip that no person made: the publish of a night, or its rollback of what it found
broken afterwards."""
MAX_READY = 16
LEASE_MS = 5_000
"""A replica that was not heard of for so long is not counted."""

_CLOCKS = {
    "sqlite": text("SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"),
    "postgresql": text("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"),
}


_PART = re.compile(r"(shards\d+)-")


def part_of(replica_id: str) -> str:
    """What a replica holds of a generation: `shards0`, `shards1`, ... of a deployment of shards,
    whose ids begin so; "" of a gateway."""
    found = _PART.match(replica_id)
    return found[1] if found else ""


class LivePointer(NamedTuple):
    """A flip. `previous`: the generation that was live before it. `hold`: no automatic publish."""

    flip: int
    generation_id: str
    previous: str | None
    who: str
    why: str
    at_ms: int
    hold: bool


class Replica(NamedTuple):
    """A lease: which generations a replica can answer from, and when it last said so.

    `refused`: generations that it was to load and could not, with the reason.
    """

    replica_id: str
    ready: tuple[str, ...]
    at_ms: int
    refused: Mapping[str, str] = MappingProxyType({})


LIVE_COLUMNS = tuple(live.c[name] for name in LivePointer._fields)
_HISTORY = select(*LIVE_COLUMNS).order_by(live.c.flip.desc()).limit(bindparam("at_most"))


def read_live(conn: Connection) -> LivePointer | None:
    """What is live; None before the first publish."""
    return next(iter(live_history(conn, 1)), None)


def live_history(conn: Connection, limit: int = 100) -> list[LivePointer]:
    """The last flips, the newest first."""
    return [LivePointer(*row) for row in conn.execute(_HISTORY, {"at_most": limit})]


def way_back(newest_first: Sequence[LivePointer]) -> str | None:
    """What a rollback goes to: what was live before the live generation was published. Never one
    that was rolled back from, until it is published again."""
    oldest_first = newest_first[::-1]
    published = [flip.previous for flip in oldest_first[:1] if flip.previous is not None]
    for flip in oldest_first:
        to = flip.generation_id
        if published and published[-1] == to:
            continue  # only the hold changed
        if flip.hold and to in published:
            while published[-1] != to:
                published.pop()
        else:
            published.append(to)
    return published[-2] if len(published) > 1 else None


def flip(
    engine: Engine,
    to: str,
    *,
    expected_flip: int,
    who: str,
    why: str,
    hold: bool,
    at_ms: int,
    override: bool = False,
) -> LivePointer:
    """Make `to` live, if the pointer still stands at `expected_flip` (0: nothing was ever live).

    `hold`: let no later publish through unless it comes with `override` (a person). A flip to what
    is live already, with the same hold, is no flip: the pointer is returned as it stands.
    Raises `FlipLost`, `HoldSet`, `UnknownGeneration`, `GenerationConflict` (not sealed or staged).
    """
    check_words(who, why)
    with _compare_and_set(engine, to, expected_flip) as conn:
        current = _expect(conn, to, expected_flip)
        if current and (current.generation_id, current.hold) == (to, hold):
            return current
        if current and current.hold and not override:
            raise HoldSet(to, current.flip, current.generation_id, current.who, current.why)
        lock_generation(conn, to, "publish", ("sealed", "staged", "published"))
        mark_published(conn, to)
        previous = current.generation_id if current else None
        if previous == to and current:
            previous = current.previous
        return _insert(conn, LivePointer(expected_flip + 1, to, previous, who, why, at_ms, hold))


def clear_hold(
    engine: Engine, *, expected_flip: int, who: str, why: str, at_ms: int
) -> LivePointer:
    """Let automatic publishes through again: a flip to the same generation, without hold."""
    check_words(who, why)
    with _compare_and_set(engine, "clear hold", expected_flip) as conn:
        current = _expect(conn, "clear hold", expected_flip)
        if current is None:
            raise BadInput("expected_flip", expected_flip, "a flip that exists")
        if not current.hold:
            return current
        cleared = LivePointer(
            expected_flip + 1, current.generation_id, current.previous, who, why, at_ms, False
        )
        return _insert(conn, cleared)


def heartbeat(
    engine: Engine,
    replica_id: str,
    ready: Sequence[str],
    at_ms: int | None = None,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Renew a replica's lease and say which generations it answers from, newest first, and which
    it refused, and why.

    `at_ms`: None is the database's own clock, the one that all replicas share: one whose machine's
    clock is an hour ahead would hold its lease for an hour after its death.
    """
    check_id("replica_id", replica_id)
    for name, generations in (("ready", ready), ("refused", refused)):
        if len(generations) > MAX_READY:
            raise BadInput(name, len(generations), f"at most {MAX_READY} generations")
    reasons = {g: reason[:MAX_WORDS_CHARACTERS] for g, reason in refused.items()}
    with write(engine) as conn:
        row = {
            "replica_id": replica_id,
            "ready": json.dumps(list(ready)),
            "refused": json.dumps(reasons),
            "at_ms": database_now_ms(conn) if at_ms is None else at_ms,
        }
        statement = insert_into(conn.dialect.name, replicas)
        conn.execute(
            statement.on_conflict_do_update(
                index_elements=["replica_id"],
                set_={name: statement.excluded[name] for name in row if name != "replica_id"},
            ),
            row,
        )


def fresh_replicas(
    conn: Connection, now_ms: int | None = None, lease_ms: int = LEASE_MS
) -> list[Replica]:
    """The replicas whose lease was renewed within `lease_ms`; `now_ms` None: by the database's
    clock.

    One renewed in the future is from before that clock was set back. It is not believed: whoever
    lives renews it in a moment.
    """
    now_ms = database_now_ms(conn) if now_ms is None else now_ms
    rows = conn.execute(
        select(replicas.c.replica_id, replicas.c.ready, replicas.c.at_ms, replicas.c.refused)
        .where(replicas.c.at_ms > now_ms - lease_ms, replicas.c.at_ms < now_ms + lease_ms)
        .order_by(replicas.c.replica_id)
    )
    return [Replica(row[0], tuple(json.loads(row[1])), row[2], json.loads(row[3])) for row in rows]


def last_heard_ms(conn: Connection) -> int | None:
    """When any replica last renewed its lease, those that gave theirs back aside."""
    found: int | None = conn.scalar(select(func.max(replicas.c.at_ms)))
    return found


def database_now_ms(conn: Connection) -> int:
    """The database's clock, milliseconds since 1970 UTC."""
    now_ms: int = conn.execute(_CLOCKS[conn.dialect.name]).scalar_one()
    return now_ms


def drop_replica(engine: Engine, replica_id: str) -> None:
    """Give a lease back, at a replica's orderly end."""
    with write(engine) as conn:
        conn.execute(delete(replicas).where(replicas.c.replica_id == replica_id))


@contextmanager
def _compare_and_set(engine: Engine, to: str, expected_flip: int) -> Iterator[Connection]:
    """A write transaction; where another process inserts the same flip first, `FlipLost`."""
    try:
        with write(engine) as conn:
            yield conn
    except IntegrityError as error:
        with read_snapshot(engine) as conn:
            current = read_live(conn)
        raise FlipLost(to, expected_flip, current.flip if current else 0) from error


def _expect(conn: Connection, to: str, expected_flip: int) -> LivePointer | None:
    current = read_live(conn)
    actual = current.flip if current else 0
    if actual != expected_flip:
        raise FlipLost(to, expected_flip, actual)
    return current


def _insert(conn: Connection, pointer: LivePointer) -> LivePointer:
    conn.execute(insert(live), pointer._asdict())
    return pointer


def check_words(who: str, why: str) -> None:
    """Raises BadInput for what the pointer's history does not take."""
    for name, words in (("who", who), ("why", why)):
        if not words or len(words) > MAX_WORDS_CHARACTERS or not is_storable(words):
            raise BadInput(name, words, f"1 to {MAX_WORDS_CHARACTERS} characters")
