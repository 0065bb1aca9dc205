"""`moonlark ingest`: a catalog and a history into the database, from files or a known data set."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.ingest_run import IngestRun
from infra.cli.settings import CliSettings
from infra.cli.store import open_store
from infra.ingest.columns import Columns
from infra.ingest.readers import TextOptions, columns_of
from sql.erasure_ledger import ErasureKey

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
        typer.Option(help=f"What `python -m infra.datasets` got: {MOVIELENS}."),
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
        typer.Option(
            help="Where rejected rows and reasons go; default STATE_DIR/rejected. They may "
            "name users; `moonlark erase --finish` deletes those in the default folder."
        ),
    ] = None,
) -> None:
    """Read a catalog and events from files.

    Fields of an item: item_id, title (both required), text, category, published_at, available,
    version, attributes.NAME, or attributes with a JSON object.

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
    text = TextOptions(delimiter, encoding)
    columns = Columns.parse(maps or (), defaults or (), lists or (), types or ())
    item_columns = event_columns = columns
    if items is not None and events is not None:  # told before the first of them is written
        given = (columns_of(items, text), columns_of(events, text))
        item_columns, event_columns = columns.of_each(*given)
    state_dir = CliSettings().state_dir
    store = open_store()
    run = IngestRun(
        store.engine,
        ErasureKey.open(store.ledger_folder),
        rejects_dir or state_dir / "rejected",
        late=late,
        keep_unknown_items=keep_unknown_items,
    )
    if dataset is not None:
        run.movielens(state_dir / "datasets" / MOVIELENS)
    if items is not None:
        run.items_file(items, item_columns, text)
    if events is not None:
        run.events_file(events, event_columns, text)
    run.end()
