"""How an ingestion runs: progress, a line for what was stored, a file for what was not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from sqlalchemy import Engine
from tqdm import tqdm

from infra.cli.lazy import load
from infra.cli.store import now_ms
from infra.datasets.movielens import read_movielens
from infra.ingest import catalog, history
from infra.ingest.catalog import Encoder, ItemsReport
from infra.ingest.columns import Columns
from infra.ingest.erased import NotErased
from infra.ingest.history import EventsReport
from infra.ingest.movielens import movielens_events, movielens_items
from infra.ingest.readers import TextOptions, open_rows
from infra.ingest.rejects import Rejects
from infra.ingest.rows import EventRow, ItemRow
from sql.engine import read_snapshot
from sql.erasure_ledger import ErasureKey


class IngestRun:
    """One ingestion: what is stored where, and what was rejected on the way."""

    def __init__(
        self,
        engine: Engine,
        erasures: ErasureKey,
        rejects_dir: Path,
        *,
        late: bool,
        keep_unknown_items: bool,
    ) -> None:
        self._erasures = erasures
        self._engine, self._rejects_dir = engine, rejects_dir
        self._late, self._keep_unknown_items = late, keep_unknown_items
        self._taken = self._rejected = 0

    def movielens(self, folder: Path) -> None:
        """Films, then ratings."""
        data = read_movielens(folder)
        with self._rejects("ml-100k-items") as rejects, _bar("items", len(data.items)) as advance:
            report = self._write_items(movielens_items(data), rejects, advance)
        self._tell_items(report)
        rows = movielens_events(data)
        with self._rejects("ml-100k-events") as rejects, _bar("events", len(rows)) as advance:
            stored = self._write_events(rows, rejects, advance)
        self._tell_events(stored)

    def items_file(self, path: Path, columns: Columns, text: TextOptions) -> None:
        """A catalog, read and written at once."""
        with self._rejects(f"items-{path.name}") as rejects:
            with open_rows(path, text) as source:
                _tell_unused(catalog.unused_columns(source, columns))
                with _bar("items", source.total) as advance:
                    rows = catalog.read_item_rows(source, columns, rejects)
                    report = self._write_items(rows, rejects, advance)
            if rejects.rows:
                with open_rows(path, text) as again:
                    rejects.write(again.rows)
        self._tell_items(report)

    def events_file(self, path: Path, columns: Columns, text: TextOptions) -> None:
        """A history: read, sorted, written."""
        with self._rejects(f"events-{path.name}") as rejects:
            with open_rows(path, text) as source:
                _tell_unused(history.unused_columns(source, columns))
                with _bar("reading", source.total) as advance:
                    rows = history.read_event_rows(source, columns, rejects, progress=advance)
            with _bar("events", len(rows)) as advance:
                report = self._write_events(rows, rejects, advance)
            if rejects.rows:
                with open_rows(path, text) as again:
                    rejects.write(again.rows, NotErased(self._engine, self._erasures, columns))
        self._tell_events(report)

    def end(self) -> None:
        """What to do next; status 1 where every row was rejected."""
        if self._rejected and not self._taken:
            typer.secho("error: every row was rejected", fg="red", err=True)
            raise typer.Exit(1)
        with read_snapshot(self._engine) as conn:
            is_live = catalog.live_encoder_id(conn) is not None
        typer.echo("in force; the next night learns from it" if is_live else "next: moonlark night")

    def _write_items(
        self, rows: Iterator[ItemRow], rejects: Rejects, advance: Callable[[int], object]
    ) -> ItemsReport:
        return catalog.write_items(
            self._engine,
            rows,
            rejects=rejects,
            at_ms=now_ms(),
            encoder=_live_encoder(self._engine),
            progress=advance,
        )

    def _write_events(
        self,
        rows: list[EventRow],
        rejects: Rejects,
        advance: Callable[[int], object],
    ) -> EventsReport:
        return history.write_events(
            self._engine,
            rows,
            rejects=rejects,
            received_at_ms=now_ms(),
            late=self._late,
            keep_unknown_items=self._keep_unknown_items,
            erasures=self._erasures,
            progress=advance,
        )

    @contextmanager
    def _rejects(self, name: str) -> Iterator[Rejects]:
        with Rejects(self._rejects_dir / f"{name}.jsonl") as rejects:
            yield rejects
        self._rejected += rejects.rows
        if rejects.rows:
            typer.secho(f"{rejects.rows:,} rows rejected: {rejects.path}", fg="yellow", err=True)

    def _tell_items(self, report: ItemsReport) -> None:
        self._taken += report.created + report.updated + report.unchanged
        embedded = f", {report.embedded:,} embedded" if report.embedded else ""
        typer.echo(
            f"items: {report.created:,} created, {report.updated:,} updated,"
            f" {report.unchanged:,} unchanged{embedded}"
        )

    def _tell_events(self, report: EventsReport) -> None:
        self._taken += report.stored + report.duplicates
        typer.echo(f"events: {report.stored:,} stored, {report.duplicates:,} known already")


def _live_encoder(engine: Engine) -> Encoder | None:
    """BERT, if a generation is live that new items must be comparable with."""
    with read_snapshot(engine) as conn:
        if catalog.live_encoder_id(conn) is None:
            return None
    encoder: Encoder = load("infra.cli.bert:load_encoder")()
    catalog.check_encoder(engine, encoder)
    return encoder


def _tell_unused(columns: list[str]) -> None:
    if columns:
        typer.echo(f"columns not used: {', '.join(columns)}", err=True)


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal, nothing elsewhere."""
    with tqdm(total=total, desc=what, unit=" rows", disable=None) as bar:
        yield bar.update
