"""The Interactive Fiction Database: who played which game, to the second (CC BY 3.0 US, ifdb.org).

`games.parquet` (gameid, published, doc_text) and `playedgames.parquet` (userid, gameid,
date_added). Plays before 2000 carry a placeholder date and are dropped, and games without a row.
A game is a candidate from its day of publication on; where that is unknown, at all times.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.evaluation.interactions import (
    LONG_AGO_MS,
    Interactions,
    Ints,
    ReplayRule,
    from_columns,
)
from ray_jobs.encoders.item_text import clean

GAMES, PLAYS = "games.parquet", "playedgames.parquet"


def is_ifdb(folder: Path) -> bool:
    """Whether its two files are in the folder."""
    return (folder / GAMES).is_file() and (folder / PLAYS).is_file()


def read_ifdb(folder: Path, cleaning: Callable[[str], str] = clean) -> Interactions:
    """65,000 plays of 6,103 games; replayed from 2025-01-01, an event a question.

    `cleaning`: of the texts, which hold markup.
    """
    games = pq.read_table(folder / GAMES, columns=["gameid", "published", "doc_text"])
    plays = pq.read_table(folder / PLAYS, columns=["userid", "gameid", "date_added"])
    items_E = _codes(pc.index_in(plays["gameid"].cast(pa.string()), games["gameid"].cast("string")))
    at_ms_E = plays["date_added"].cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy()
    kept = np.flatnonzero((items_E >= 0) & (at_ms_E >= _ms(2000, 1, 1)))
    users = plays["userid"].combine_chunks().dictionary_encode()
    return from_columns(
        "ifdb",
        [cleaning(text or "") for text in games["doc_text"].to_pylist()],
        _codes(users.indices)[kept],
        items_E[kept],
        at_ms_E[kept],
        "view",
        published_ms_I=np.array([_day(text) for text in games["published"].to_pylist()]),
        rule=ReplayRule(cut_ms=_ms(2025, 1, 1), validation_days=180),
    )


def _codes(column: pa.Array | pa.ChunkedArray) -> Ints:
    """-1 for null."""
    return np.asarray(pc.fill_null(column.cast(pa.int64()), -1).to_numpy(), np.int64)


def _day(published: str | None) -> int:
    """Midnight (ms) of "2004-01-00 ...": an unknown month or day counts as the first."""
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)", published or "")
    if match is None:
        return LONG_AGO_MS
    year, month, day = map(int, match.groups())
    return _ms(year, max(month, 1), max(day, 1))


def _ms(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1000
