"""Which loader reads a data set: by name, or by the files in a folder."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from infra.datasets.fetch import MOVIELENS_100K, STATE_DIR
from infra.datasets.movielens import read_movielens
from infra.evaluation.errors import NoSuchData
from infra.evaluation.ifdb import is_ifdb, read_ifdb
from infra.evaluation.interactions import (
    DAY_MS,
    LONG_AGO_MS,
    Interactions,
    Ints,
    ReplayRule,
    from_columns,
)
from infra.evaluation.online_retail import is_online_retail, read_online_retail
from infra.ingest.catalog import read_item_rows
from infra.ingest.columns import Columns
from infra.ingest.history import read_event_rows
from infra.ingest.readers import open_rows
from infra.ingest.rejects import Rejects
from ray_jobs.encoders.config import SEEN_KINDS
from ray_jobs.encoders.item_text import compose

ML_100K = "ml-100k"
MOVIELENS_NAMES = (ML_100K, "movielens")
MOVIELENS_CUT_MS = 891_388_800_000
"""1998-04-01: the last tenth of the ratings."""
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".csv.gz", ".jsonl.gz")
REPLAYED_SHARE = 0.1
"""Of a folder's events: those after it are replayed."""


def load_interactions(data: str, state_dir: Path = STATE_DIR) -> Interactions:
    """Read the data set named `data`, or the folder.

    Raises:
        DatasetUnreadable: MovieLens is not there (`python -m infra.datasets`), or damaged.
        NoSuchData: no such folder, or nothing in it that we can read.
    """
    named = data in MOVIELENS_NAMES
    folder = state_dir / MOVIELENS_100K.target if named else Path(data)
    if named or (folder / "ml-100k.inter").is_file():
        return _movielens(folder)
    if not folder.is_dir():
        raise NoSuchData(data, "no such folder")
    if is_ifdb(folder):
        return read_ifdb(folder)
    if is_online_retail(folder):
        return read_online_retail(folder)
    return _folder(folder, data)


def _movielens(folder: Path) -> Interactions:
    films = read_movielens(folder)
    rows = {film.item_id: row for row, film in enumerate(films.items)}
    events = [event for event in films.events if event.item_id in rows]
    return from_columns(
        ML_100K,
        [compose(film.title, film.text, film.category) for film in films.items],
        _numbers([event.user_id for event in events]),
        np.array([rows[event.item_id] for event in events], np.int64),
        np.array([event.occurred_at_ms for event in events], np.int64),
        [event.kind for event in events],
        np.array([event.value for event in events], np.float32),
        rule=ReplayRule(cut_ms=MOVIELENS_CUT_MS, validation_days=14),
    )


def _folder(folder: Path, data: str) -> Interactions:
    """What users saw, by the times of their events; what takes an event back is not read."""
    columns = Columns.parse()
    with TemporaryDirectory() as scratch, Rejects(Path(scratch) / "rejects.jsonl") as rejects:
        with open_rows(_only(folder, "items", data)) as source:
            puts = [row.put for row in read_item_rows(source, columns, rejects)]
        with open_rows(_only(folder, "events", data)) as source:
            read = [row.event for row in read_event_rows(source, columns, rejects)]
        if rejects.rows:
            raise NoSuchData(data, f"{rejects.rows} rows are unreadable: try `moonlark ingest`")
    rows = {put.item_id: row for row, put in enumerate(puts)}
    events = [e for e in read if e.item_id in rows and str(e.kind) in SEEN_KINDS]
    if not events:
        raise NoSuchData(data, "no event of an item in it")
    at_ms_E = np.array([event.occurred_at_ms for event in events], np.int64)
    cut_ms = int(np.quantile(at_ms_E, 1 - REPLAYED_SHARE)) // DAY_MS * DAY_MS
    before_days = (cut_ms - int(at_ms_E.min())) // DAY_MS
    return from_columns(
        folder.name,
        [put.bert_text for put in puts],
        _numbers([event.user_id for event in events]),
        np.array([rows[str(event.item_id)] for event in events], np.int64),
        at_ms_E,
        [str(event.kind) for event in events],
        np.array([np.nan if e.value is None else e.value for e in events], np.float32),
        rule=ReplayRule(cut_ms, max(1, before_days // 10)) if before_days > 1 else None,
        published_ms_I=_published([put.body.published_at_ms for put in puts]),
    )


def _published(times_I: Sequence[int | None]) -> Ints | None:
    """An item without a time was always there; None where none has one."""
    if all(time is None for time in times_I):
        return None
    return np.array([LONG_AGO_MS if time is None else time for time in times_I], np.int64)


def _numbers(names: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """0, 1, ... in the order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _only(folder: Path, stem: str, data: str) -> Path:
    found = [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
    found = [path for path in found if path.is_file()]
    if len(found) != 1:
        raise NoSuchData(data, f"{len(found)} files {stem}.*, expected one")
    return found[0]
