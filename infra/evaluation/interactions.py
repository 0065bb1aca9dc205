"""A data set for an evaluation: items with the text that BERT reads, and events in order.

`ml-100k` is MovieLens 100K as `python -m infra.datasets` left it. A folder holds either its
atomic files or `items.*` and `events.*` (.parquet, .csv, .jsonl), read as `moonlark ingest` reads
them.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.datasets.fetch import MOVIELENS_100K, STATE_DIR
from infra.datasets.movielens import read_movielens
from infra.evaluation.errors import NoSuchData
from infra.ingest.catalog import read_item_rows
from infra.ingest.columns import Columns
from infra.ingest.history import read_event_rows
from infra.ingest.readers import open_rows
from infra.ingest.rejects import Rejects
from ray_jobs.encoders.config import SEEN_KINDS
from ray_jobs.encoders.item_text import compose

ML_100K = "ml-100k"
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".csv.gz", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class Interaction:
    """A user saw an item."""

    user_id: str
    item_id: str
    kind: str
    value: float | None
    occurred_at_ms: int


@dataclass(frozen=True, slots=True)
class Interactions:
    """`texts`: item_id -> what BERT reads, in catalog order. `events`: by time, then file order."""

    texts: dict[str, str]
    events: tuple[Interaction, ...]


def load_interactions(data: str, state_dir: Path = STATE_DIR) -> Interactions:
    """Read the data set named `data`, or the folder.

    Raises:
        DatasetUnreadable: MovieLens is not there (`python -m infra.datasets`), or damaged.
        NoSuchData: no such folder, or no items and events in it.
    """
    folder = state_dir / MOVIELENS_100K.target if data == ML_100K else Path(data)
    if data == ML_100K or (folder / "ml-100k.inter").is_file():
        return _movielens(folder)
    if not folder.is_dir():
        raise NoSuchData(data, "no such folder")
    columns = Columns.parse()
    with TemporaryDirectory() as scratch, Rejects(Path(scratch) / "rejects.jsonl") as rejects:
        with open_rows(_only(folder, "items", data)) as source:
            puts = [row.put for row in read_item_rows(source, columns, rejects)]
        with open_rows(_only(folder, "events", data)) as source:
            rows = [row.event for row in read_event_rows(source, columns, rejects)]
        if rejects.rows:
            raise NoSuchData(data, f"{rejects.rows} rows are unreadable: try `moonlark ingest`")
    events = [
        Interaction(
            event.user_id, event.item_id, str(event.kind), event.value, event.occurred_at_ms
        )
        for event in rows
        if event.item_id is not None and str(event.kind) in SEEN_KINDS
    ]
    return Interactions({put.item_id: put.bert_text for put in puts}, _by_time(events))


def _movielens(folder: Path) -> Interactions:
    films = read_movielens(folder)
    return Interactions(
        {film.item_id: compose(film.title, film.text, film.category) for film in films.items},
        _by_time(
            [
                Interaction(e.user_id, e.item_id, e.kind, e.value, e.occurred_at_ms)
                for e in films.events
            ]
        ),
    )


def _only(folder: Path, stem: str, data: str) -> Path:
    found = [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
    found = [path for path in found if path.is_file()]
    if len(found) != 1:
        raise NoSuchData(data, f"{len(found)} files {stem}.*, expected one")
    return found[0]


def _by_time(events: list[Interaction]) -> tuple[Interaction, ...]:
    return tuple(sorted(events, key=lambda event: event.occurred_at_ms))  # stable
