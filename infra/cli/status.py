"""`moonlark status`: read from the database, so that it answers when nothing else does."""

import json
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from infra.cli import pointer
from infra.cli.console import console
from infra.cli.lazy import say
from infra.cli.store import open_store
from infra.cli.times import ago, as_utc
from sql import catalog, generations
from sql.engine import read_snapshot, shown
from sql.errors import StoreError
from sql.generations import LivePointer, Replica
from sql.tables import items, users

WATCH_S = 2.0


@dataclass(frozen=True, slots=True)
class Status:
    """What an on-call looks at first."""

    database: str
    items: int
    catalog_seq: int
    events: int
    users: int
    live: LivePointer | None
    parity: generations.Parity | None
    replicas: list[Replica]


def command(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")
    ] = False,
) -> None:
    """Show what is stored, live and ready.

    Reads the database itself; GET /v1/status asks a replica. Ends with 1 where the database does
    not answer, with --watch only where it did not at the start; whether something is wrong says
    `moonlark doctor`.
    """
    engine = open_store().engine
    if not watch:
        _show(engine, as_json=as_json)
        return
    try:
        while True:
            console.clear()  # does nothing where the output is no terminal
            try:
                _show(engine, as_json=as_json)
            except (StoreError, SQLAlchemyError) as error:
                say(error)  # and look again: it may come back
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return


def _show(engine: Engine, *, as_json: bool) -> None:
    with read_snapshot(engine) as conn:
        at_ms = generations.database_now_ms(conn)
        status = _read(conn, shown(engine))
    if as_json:
        typer.echo(json.dumps(_document(status, at_ms), indent=2))
        return
    for name, line in _lines(status, at_ms):
        typer.echo(f"{name:<10} {line}")
    typer.echo(f"next: {_next(status)}")


def _read(conn: Connection, database: str) -> Status:
    counted = select(func.count(), func.coalesce(func.sum(users.c.last_user_seq), 0))
    user_count, event_count = conn.execute(counted.select_from(users)).one()
    item_count = conn.execute(select(func.count()).select_from(items).where(~items.c.deleted))
    live = generations.read_live(conn)
    return Status(
        database=database,
        items=int(item_count.scalar_one()),
        catalog_seq=catalog.catalog_seq(conn),
        events=int(event_count),
        users=int(user_count),
        live=live,
        parity=generations.read_parity(conn, live.generation_id) if live else None,
        replicas=generations.fresh_replicas(conn),
    )


def _document(status: Status, at_ms: int) -> dict[str, Any]:
    """In the words of `GET /v1/status`."""
    document = asdict(status)
    document["live"] = pointer.document(status.live)
    document["parity"] = None
    if status.parity:
        parity = status.parity._asdict()
        document["parity"] = {"at": as_utc(parity.pop("at_ms")), **parity}
    document["replicas"] = [
        {"replica_id": r.replica_id, "ready": list(r.ready), "heartbeat_age_ms": at_ms - r.at_ms}
        for r in status.replicas
    ]
    return document


def _lines(status: Status, at_ms: int) -> list[tuple[str, str]]:
    lines = [
        ("database", status.database),
        ("catalog", f"{status.items:,} items (catalog_seq {status.catalog_seq})"),
        ("events", f"{status.events:,} of {status.users:,} users"),
        ("live", _live_line(status.live, at_ms) if status.live else "nothing yet"),
    ]
    if status.live and status.live.hold:
        held = "no night publishes until `moonlark publish --clear-hold`"
        lines.append(("hold", held))
    if status.parity:
        lines.append(("parity", _parity_line(status.parity, at_ms)))
    lines.append(("replicas", _replicas_line(status)))
    return lines


def _live_line(live: LivePointer, at_ms: int) -> str:
    when = f"{as_utc(live.at_ms)}, {ago(live.at_ms, at_ms)}"
    return f"{live.generation_id} (flip {live.flip}, {when}, by {live.who}: {live.why})"


def _parity_line(parity: generations.Parity, at_ms: int) -> str:
    difference, cosine = parity.max_abs_diff, parity.canary_min_cosine
    users = "no user to compare" if difference is None else f"day and night {difference:.0e} apart"
    texts = "no text" if cosine is None else f"cosine {cosine:.6f}"
    return (
        f"{users} ({parity.users} users), {texts} ({parity.canary_texts} texts), "
        f"{ago(parity.at_ms, at_ms)}"
    )


def _replicas_line(status: Status) -> str:
    if not status.replicas:
        return "none"
    live = status.live.generation_id if status.live else None
    ready = sum(live in replica.ready for replica in status.replicas)
    return f"{len(status.replicas)}, of which {ready} answer from the live generation"


def _next(status: Status) -> str:
    if not status.items or not status.events:
        return "moonlark ingest --dataset ml-100k"
    if status.live is None:
        return "moonlark night"
    return "moonlark recommend USER" if status.replicas else "moonlark serve"
