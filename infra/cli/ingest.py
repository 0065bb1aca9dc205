"""`moonlark ingest`: a catalog and a history into the database, from files or a known data set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine
from tqdm import tqdm

from infra.cli.lazy import load
from infra.cli.settings import CliSettings
from infra.cli.store import now_ms, open_store
from infra.datasets.movielens import read_movielens
from infra.ingest import catalog, history
from infra.ingest.catalog import Encoder, ItemsReport
from infra.ingest.columns import Columns
from infra.ingest.history import EventsReport
from infra.ingest.movielens import movielens_events, movielens_items
from infra.ingest.readers import open_rows
from infra.ingest.rejects import Rejects
from sql.engine import read_snapshot

MOVIELENS = "ml-100k"
FILES = "Files and columns"
EVENTS = "Events"


def command(
    items: Annotated[
        Path | None,
        typer.Option(help="Catalog: .parquet, .csv, .tsv or .jsonl.", rich_help_panel=FILES),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(help="History: .parquet, .csv, .tsv or .jsonl.", rich_help_panel=FILES),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=f"A data set that `python -m infra.datasets` got: {MOVIELENS}"),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", help="FIELD=COLUMN where the names differ.", rich_help_panel=FILES),
    ] = None,
    defaults: Annotated[
        list[str] | None,
        typer.Option("--default", help="FIELD=VALUE where a row has none.", rich_help_panel=FILES),
    ] = None,
    lists: Annotated[
        list[str] | None,
        typer.Option(
            "--list", help="ATTRIBUTE=SEPARATOR: split into a list.", rich_help_panel=FILES
        ),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", help="ATTRIBUTE=int, float or bool; else text.", rich_help_panel=FILES
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(help="Of CSV; default a comma (.tsv: a tab).", rich_help_panel=FILES),
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of text files.", rich_help_panel=FILES)] = "utf-8",
    late: Annotated[
        bool,
        typer.Option(
            "--late",
            help="Append events that are older than what their user already has.",
            rich_help_panel=EVENTS,
        ),
    ] = False,
    keep_unknown_items: Annotated[
        bool,
        typer.Option(
            "--keep-unknown-items",
            help="Store events of items that are not in the catalog, instead of rejecting them.",
            rich_help_panel=EVENTS,
        ),
    ] = False,
    rejects_dir: Annotated[
        Path | None,
        typer.Option(help="Where rejected rows and reasons go; default STATE_DIR/rejected."),
    ] = None,
) -> None:
    """Read a catalog and events from files.

    Fields of an item: item_id, title (both required), text, category, published_at, version, and
    any number of attributes.NAME.

    Fields of an event: user_id, kind, occurred_at (all required), item_id, value (of a rating, 0
    to 5), text (of a search or comment), event_id, undoes, surface. Kinds: view, click, rating,
    favourite, purchase, dislike, hide, search, comment, undo.

    Times are seconds or milliseconds since 1970, or ISO 8601. A column with the name of a field is
    that field. The same file may be ingested again: nothing is stored twice.

    Example: moonlark ingest --events ratings.csv --map user_id=userId --map item_id=movieId
    --map value=rating --map occurred_at=timestamp --default kind=rating
    """
    if dataset is None and items is None and events is None:
        raise ValueError("what to ingest? --items FILE, --events FILE or --dataset ml-100k")
    if dataset is not None and (items, events, dataset) != (None, None, MOVIELENS):
        raise ValueError(f"--dataset {dataset}; accepted: {MOVIELENS}, without --items, --events")
    columns = Columns.parse(maps or (), defaults or (), lists or (), types or ())
    state_dir = CliSettings().state_dir
    run = _Run(open_store().engine, rejects_dir or state_dir / "rejected", late, keep_unknown_items)
    if dataset is not None:
        run.movielens(state_dir / "datasets" / MOVIELENS)
    if items is not None:
        run.items_file(items, columns, delimiter, encoding)
    if events is not None:
        run.events_file(events, columns, delimiter, encoding)
    run.end()


class _Run:
    """One ingestion: what is stored where, and what was rejected on the way."""

    def __init__(
        self, engine: Engine, rejects_dir: Path, late: bool, keep_unknown_items: bool
    ) -> None:
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

    def items_file(
        self, path: Path, columns: Columns, delimiter: str | None, encoding: str
    ) -> None:
        """A catalog, read and written at once."""
        with (
            self._rejects(path.name) as rejects,
            open_rows(path, delimiter=delimiter, encoding=encoding) as source,
        ):
            _tell_unused(catalog.unused_columns(source, columns))
            with _bar("items", source.total) as advance:
                rows = catalog.read_item_rows(source, columns, rejects)
                report = self._write_items(rows, rejects, advance)
        self._tell_items(report)

    def events_file(
        self, path: Path, columns: Columns, delimiter: str | None, encoding: str
    ) -> None:
        """A history: read, sorted, written."""
        with self._rejects(path.name) as rejects:
            with open_rows(path, delimiter=delimiter, encoding=encoding) as source:
                _tell_unused(history.unused_columns(source, columns))
                with _bar("reading", source.total) as advance:
                    rows = history.read_event_rows(source, columns, rejects, progress=advance)
            with _bar("events", len(rows)) as advance:
                report = self._write_events(rows, rejects, advance)
        self._tell_events(report)

    def end(self) -> None:
        """What to do next; status 1 where every row was rejected."""
        if self._rejected and not self._taken:
            typer.secho("error: every row was rejected", fg="red", err=True)
            raise typer.Exit(1)
        typer.echo("next: moonlark night")

    def _write_items(
        self, rows: Iterator[catalog.ItemRow], rejects: Rejects, advance: Callable[[int], object]
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
        rows: list[history.EventRow],
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
