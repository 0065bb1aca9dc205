"""Step 1. One snapshot of the log and the catalog becomes Parquet work files.

What a night sees is exactly this snapshot: the watermark of the log is the last `user_seq` of
each user in it, the watermark of the catalog is its `change_seq`. What comes later is the delta.
A rebuild reads both as they were at the watermark of a past night (`ray_jobs.nightly.rebuild`).

Run: python -m ray_jobs.nightly.export --generation ID [--rebuild ID]
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection

from ray_jobs.nightly.prune import mark_abandoned
from ray_jobs.nightly.rebuild import Watermark, kept_settings, watermark_of
from ray_jobs.nightly.step import Night, Report, run_job
from ray_jobs.nightly.workspace import NothingToDo
from ray_jobs.ranking.trend import KIND_WEIGHTS
from ray_jobs.shards.items import Item, attributes_json, write_items
from sql import catalog, events, generations
from sql.activity import hour_of, iterate_activity
from sql.engine import read_snapshot
from sql.generations import REBUILDS
from sql.past_reads import iterate_items_at, read_cuts

CHUNK = 10_000
"""Rows in a Parquet row group: the unit in which later steps read."""

NOT_YET_KNOWN = "unknown"
"""Encoder id of a generation whose texts are not embedded yet; registered early, so that a night
that fails here says so in the registry."""

EVENTS_SCHEMA = pa.schema(
    [
        ("user_key", pa.int64()),
        ("user_seq", pa.int64()),
        ("kind", pa.string()),
        ("item_id", pa.string()),
        ("ordinal", pa.int64()),
        ("text_digest", pa.string()),
        ("text", pa.string()),
        ("value", pa.float64()),
        ("undoes_seq", pa.int64()),
        ("occurred_at_ms", pa.int64()),
        ("received_at_ms", pa.int64()),
    ]
)

TRIMMED_SCHEMA = pa.schema([("user_key", pa.int64()), ("trimmed_seq", pa.int64())])
"""Of users of whom retention took events: a session says what was gone when it was folded."""

ACTIVITY_SCHEMA = pa.schema([("hour", pa.int64()), ("ordinal", pa.int64()), ("n", pa.float32())])
"""What each item was acted on in each hour that is over, by kinds as `ranking.trend` weighs them.
The hour of the export is the day's: it goes on."""

TEXTS_SCHEMA = pa.schema([("text_digest", pa.string()), ("text", pa.string())])


def export(night: Night, rebuild: str = "") -> Report:
    """Write items, events and the texts they name; register the generation as building.

    `rebuild`: of which night the watermark is taken (`rebuild.watermark_of`); "": of now.
    """
    created_at_ms = night.now_ms()
    mark_abandoned(night)
    past = _past(night, rebuild)
    as_of_ms = created_at_ms if past is None else past.as_of_ms
    _register(night, created_at_ms, past)
    night.workspace.make()
    with read_snapshot(night.engine) as conn:
        catalog_seq = catalog.catalog_seq(conn) if past is None else past.catalog_seq
        live = generations.read_live(conn)
        pages = _pages(conn) if past is None else iterate_items_at(conn, catalog_seq, CHUNK)
        items, digests = _export_items(pages, night.workspace.work)
        cuts = {} if past is None else read_cuts(conn, past.received_until_ms)
        log = _export_events(conn, night.workspace.events, cuts)
        _export_trimmed(conn, night.workspace.trimmed)
        activity_hour = hour_of(as_of_ms)
        _export_activity(conn, night.workspace.activity, activity_hour)
        texts = _export_texts(conn, night.workspace.texts, digests | log.digests)
    if items == 0:
        raise NothingToDo("the catalog is empty", hint="moonlark ingest --items FILE")
    if log.events == 0:
        raise NothingToDo("the event log is empty", hint="moonlark ingest --events FILE")
    return {
        "created_at_ms": created_at_ms,
        "as_of_ms": as_of_ms,
        "received_until_ms": past.received_until_ms if past else log.received_until_ms,
        "settings": past.settings if past else kept_settings(night.settings),
        "catalog_seq": catalog_seq,
        "live_generation": None if live is None else live.generation_id,
        "activity_hour": activity_hour,
        "items": items,
        "events": log.events,
        "users": len(log.users),
        "texts": texts,
        **_against(past, log),
    }


def _register(night: Night, created_at_ms: int, past: Watermark | None) -> None:
    registered = generations.register(
        night.engine,
        night.generation_id,
        encoder_id=NOT_YET_KNOWN,
        catalog_seq=0,
        created_at_ms=created_at_ms,
        metrics={} if past is None else {REBUILDS: past.generation_id},
    )
    if registered.state != "building":
        # Its work files are gone, its files may be in use: made again, they would change under it.
        raise NothingToDo(
            f"generation {night.generation_id} is {registered.state} already",
            hint="moonlark night, without --generation, makes another one",
        )


def _past(night: Night, rebuild: str) -> Watermark | None:
    if not rebuild:
        return None
    with read_snapshot(night.engine) as conn:
        return watermark_of(conn, rebuild)


@dataclass
class _Log:
    """What was exported of the event log."""

    events: int = 0
    users: set[int] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    received_until_ms: int = 0


def _against(past: Watermark | None, log: _Log) -> Report:
    """Of a rebuild: whose, and how many events and users of it are gone (below 0: came in)."""
    if past is None:
        return {}
    gone = {"events_gone": past.events - log.events, "users_gone": past.users - len(log.users)}
    return {REBUILDS: past.generation_id, **gone}


def _pages(conn: Connection) -> Iterator[list[catalog.Item]]:
    after = -1
    while page := catalog.read_items(conn, after_ordinal=after, limit=CHUNK):
        after = page[-1].ordinal
        yield page


def _export_items(pages: Iterator[list[catalog.Item]], work: Path) -> tuple[int, set[str]]:
    digests: set[str] = set()

    def rows() -> Iterator[Item]:
        for page in pages:
            digests.update(item.text_digest for item in page)
            yield from map(as_shown, page)

    return write_items(work, rows()), digests


def as_shown(item: catalog.Item) -> Item:
    """An item of the catalog as the shards' item table keeps it (no text: the digest names it)."""
    return Item(
        ordinal=item.ordinal,
        item_id=item.item_id,
        title=item.body.title,
        category=item.body.category,
        attributes_json=attributes_json(item.body.attributes),
        published_at_ms=item.body.published_at_ms,
        text_digest=item.text_digest,
        available=item.body.available,
        former_ordinals=item.former_ordinals,
    )


def _export_events(conn: Connection, path: Path, cuts: dict[int, int]) -> _Log:
    """`cuts`: of whom only the events before that `user_seq` are exported."""
    log = _Log()
    with pq.ParquetWriter(path, EVENTS_SCHEMA) as writer:
        for page in events.iterate_log(conn, chunk=CHUNK):
            chunk = [e for e in page if e.user_key not in cuts or e.user_seq < cuts[e.user_key]]
            if not chunk:
                continue
            log.events += len(chunk)
            log.users.update(event.user_key for event in chunk)
            log.digests.update(e.text_digest for e in chunk if e.text_digest is not None)
            newest_ms = max(event.received_at_ms for event in chunk)
            log.received_until_ms = max(log.received_until_ms, newest_ms)
            rows: list[dict[str, Any]] = [
                {name: getattr(event, name) for name in EVENTS_SCHEMA.names} for event in chunk
            ]
            writer.write_table(pa.Table.from_pylist(rows, EVENTS_SCHEMA), row_group_size=CHUNK)
    return log


def _export_trimmed(conn: Connection, path: Path) -> None:
    trimmed = events.read_trimmed(conn)
    columns = {"user_key": list(trimmed), "trimmed_seq": list(trimmed.values())}
    pq.write_table(pa.Table.from_pydict(columns, TRIMMED_SCHEMA), path)


def _export_activity(conn: Connection, path: Path, before_hour: int) -> None:
    with pq.ParquetWriter(path, ACTIVITY_SCHEMA) as writer:
        for columns in iterate_activity(conn, before_hour, KIND_WEIGHTS, CHUNK):
            arrays = [pa.array(column) for column in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=ACTIVITY_SCHEMA))


def _export_texts(conn: Connection, path: Path, digests: set[str]) -> int:
    with pq.ParquetWriter(path, TEXTS_SCHEMA) as writer:
        for chunk in _chunks(sorted(digests)):
            texts = catalog.texts_by_digest(conn, chunk)
            columns = {
                "text_digest": list(texts),
                "text": list(texts.values()),
            }
            writer.write_table(pa.Table.from_pydict(columns, TEXTS_SCHEMA), row_group_size=CHUNK)
    return len(digests)


def _chunks(values: list[str]) -> Iterator[list[str]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="the step 'export' of the night")
    parser.add_argument("--generation", required=True, help="id of the generation being made")
    parser.add_argument(
        "--rebuild",
        default="",
        help="of which generation the watermark is taken; 'g...-': the newest whose id begins so",
    )
    asked = parser.parse_args()
    run_job("export", partial(export, rebuild=asked.rebuild), asked.generation)
