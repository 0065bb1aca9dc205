"""The made store of one size: built once, kept under the state directory, copied for each run.

<state>/bench/serve-<items>-<users>/moonlark.db       the template: catalog, log, sessions, g0
<state>/bench/serve-<items>-<users>/artifacts/        generation g0, read only
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, delete, select, text
from tqdm import tqdm

from infra.bench.serving.made_catalog import MadeCatalog
from infra.bench.serving.made_generation import write_generation
from ray_jobs.encoders.item_bert import BertEncoder
from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.workspace import generation_directory
from sql import catalog
from sql.engine import migrate, open_engine
from sql.events import append
from sql.sessions import write_sessions
from sql.tables import metadata

GENERATION = "g0"
SEED = 7
ITEMS_AT_ONCE = 5_000
USERS_AT_ONCE = 500
COPIED_AT_ONCE = 20_000
DONE = "done"
VERSION = 3
"""Of what is made: another one is built anew."""

Row = TypeVar("Row")


@dataclass(frozen=True)
class MadeStore:
    """A template that is whole."""

    folder: Path
    items: int
    users: int

    @classmethod
    def ready(cls, state_dir: Path, items: int, users: int, bert_model: Path | str) -> MadeStore:
        """The kept one, or made now (a million items: about ten minutes)."""
        folder = state_dir.absolute() / "bench" / f"serve-{items}-{users}-v{VERSION}"
        if not (folder / DONE).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            encoder = BertEncoder(bert_model)
            build(folder, items, users, encoder.encoder_id, encoder.dim)
            (folder / DONE).touch()
        return cls(folder, items, users)

    @property
    def root(self) -> Path:
        """The artifact root."""
        return self.folder / "artifacts"

    @property
    def directory(self) -> Path:
        """The files of the generation."""
        return generation_directory(self.root, GENERATION)

    def copy_sqlite(self, to: Path) -> str:
        """A database of its own; returns its URL."""
        shutil.copyfile(self.folder / "moonlark.db", to)
        return f"sqlite:///{to}"

    def copy_into(self, database_url: str) -> None:
        """The same rows into an empty Postgres."""
        source = open_engine(f"sqlite:///{self.folder / 'moonlark.db'}")
        target = open_engine(database_url)
        try:
            migrate(target)
            with source.connect() as rows, target.begin() as conn:
                for table in tqdm(metadata.sorted_tables, desc="copy to Postgres", leave=False):
                    conn.execute(delete(table))  # the migration's own rows
                    _copy_table(rows, conn, table)
            with target.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
                conn.execute(text("VACUUM ANALYZE"))
        finally:
            source.dispose()
            target.dispose()


def _copy_table(rows: Connection, conn: Connection, table: Table) -> None:
    """By COPY: a million rows in some ten seconds."""
    driver: Any = conn.connection.driver_connection
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    found = rows.execution_options(yield_per=COPIED_AT_ONCE).execute(select(table))
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
        for row in found:
            copy.write_row(row)


def build(folder: Path, items: int, users: int, encoder_id: str, text_dim: int) -> None:
    """The template of a BERT with that id and width: the night's work, with its own bars."""
    now_ms = time.time_ns() // 1_000_000
    made = MadeCatalog.make(items, text_dim, SEED)
    engine = open_engine(f"sqlite:///{folder / 'moonlark.db'}")
    directory = generation_directory(folder / "artifacts", GENERATION)
    try:
        migrate(engine)
        for puts in _parts(made.puts(now_ms), ITEMS_AT_ONCE, items, "catalog"):
            catalog.put_items(engine, puts, now_ms)
        for histories in _parts(made.histories(users, now_ms), USERS_AT_ONCE, users, "log"):
            append(engine, histories, received_at_ms=now_ms, history=True)
        sessions = write_generation(engine, directory, made, encoder_id=encoder_id, at_ms=now_ms)
        bar = tqdm(sessions, desc="sessions", total=users, leave=False)
        write_sessions(engine, GENERATION, bar, pause_s=0)
        stage_and_flip(
            engine,
            GENERATION,
            settings=NightSettings(),
            who="bench",
            why="made",
            hold=False,
            now_ms=lambda: now_ms,
        )
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))  # the copy is of one file
    finally:
        engine.dispose()


def _parts(rows: Iterable[Row], size: int, total: int, label: str) -> Iterator[list[Row]]:
    source = iter(rows)
    with tqdm(desc=label, total=total, leave=False) as bar:
        while part := list(islice(source, size)):
            yield part
            bar.update(len(part))
