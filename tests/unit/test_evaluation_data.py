"""The public data sets, cleaned as their protocol says: on made files of the same shape, and on
the real ones where a folder holds them (MOONLARK_EVALUATION_DATA, with `ifdb` and `online_retail`).
"""

import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.evaluation.interactions import LONG_AGO_MS
from infra.evaluation.load import load_interactions
from infra.evaluation.online_retail import FIRST, SECOND
from infra.evaluation.rankers.popularity import Popularity
from infra.evaluation.replay import replay
from infra.evaluation.walk import walk

MOVIELENS = Path(__file__).parents[2] / ".moonlark"


def real(name: str) -> str:
    folder = Path(os.environ.get("MOONLARK_EVALUATION_DATA", "none")) / name
    if not folder.is_dir():
        pytest.skip(f"needs the data set {name} in MOONLARK_EVALUATION_DATA")
    return str(folder)


def test_ifdb_drops_placeholder_dates_and_games_without_a_row(tmp_path: Path) -> None:
    games = {
        "gameid": ["g1", "g2", "g3"],
        "published": ["2004-02-00 00:00:00", "", "2025-03-01 01:00:00"],
        "doc_text": ["One &amp; <b>only</b>", "Two", None],
    }
    plays = {
        "userid": ["b", "a", "a", "a", "b"],
        "gameid": ["g2", "g1", "gone", "g3", "g1"],
        "date_added": [datetime(*day) for day in ((2026, 1, 1), (2020, 1, 1), (2020, 1, 2))]
        + [datetime(1980, 1, 1), datetime(2019, 5, 5)],
    }
    pq.write_table(pa.table(games), tmp_path / "games.parquet")
    pq.write_table(pa.table(plays), tmp_path / "playedgames.parquet")
    read = load_interactions(str(tmp_path))
    assert read.name == "ifdb"
    assert read.texts_I == ("One & only", "Two", "")
    assert read.items_E.tolist() == [0, 0, 1]  # in order of time
    assert read.users_E.tolist()[0] == read.users_E.tolist()[2] != read.users_E.tolist()[1]
    assert read.published_ms_I is not None
    days = [
        datetime.fromtimestamp(ms / 1000).date().isoformat() for ms in read.published_ms_I[[0, 2]]
    ]
    assert days == ["2004-02-01", "2025-03-01"]
    assert read.published_ms_I[1] == LONG_AGO_MS


def test_online_retail_keeps_one_half_where_the_two_overlap(tmp_path: Path) -> None:
    def write(name: str, customer: str, rows: list[tuple[str | None, int, datetime, float | None]]):
        columns = zip(*rows, strict=True)
        names = ("Description", "Quantity", "InvoiceDate", customer)
        table = dict(zip(names, map(list, columns), strict=True))
        pq.write_table(pa.table(table), tmp_path / name)

    day = datetime(2010, 12, 1, 9)
    late = datetime(2010, 12, 2)
    write(
        FIRST,
        "Customer ID",
        [
            (" white mug ", 1, datetime(2010, 1, 1), 7.0),
            ("RED MUG", 1, day, 7.0),  # again in the second file
            ("RED MUG", -1, datetime(2010, 1, 2), 7.0),  # a return
            (None, 3, datetime(2010, 1, 2), 7.0),
            ("POSTAGE", 1, datetime(2010, 1, 2), 7.0),
            ("RED MUG", 1, datetime(2010, 1, 2), None),
        ],
    )
    write(
        SECOND,
        "CustomerID",
        [("RED MUG", 1, day, 7.0), ("WHITE MUG", 2, day, 8.0), ("WHITE MUG", 1, late, 7.0)],
    )
    read = load_interactions(str(tmp_path))
    assert read.name == "online_retail"
    assert read.texts_I == ("WHITE MUG", "RED MUG")
    assert list(zip(read.users_E.tolist(), read.items_E.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 0),
    ]
    assert read.rule is not None
    assert read.rule.question == "basket"


def test_movielens_is_replayed_with_all_its_items_as_candidates() -> None:
    read = load_interactions("movielens", MOVIELENS)
    assert (len(read.users_E), read.user_count, read.item_count) == (100_000, 943, 1_682)
    assert bool(np.all(np.diff(read.at_ms_E) >= 0))
    task = replay(read, "nightly+live")
    assert task.steps.count == 9_359
    assert walk(task, Popularity()).ndcg_Q.mean() == pytest.approx(0.027, abs=0.01)


def test_ifdb_reproduces_the_popularity_rows() -> None:
    task = replay(load_interactions(real("ifdb")))
    assert (task.steps.count, task.log.interactions.item_count) == (6_118, 6_103)
    assert walk(task, Popularity()).ndcg_Q.mean() == pytest.approx(0.030, abs=0.002)
    assert walk(task, Popularity(30)).ndcg_Q.mean() == pytest.approx(0.043, abs=0.002)


def test_online_retail_reproduces_the_popularity_rows() -> None:
    read = load_interactions(real("online_retail"))
    assert (len(read.users_E), read.user_count, read.item_count) == (492_601, 5_853, 5_224)
    task = replay(read)
    assert task.steps.count == 4_540
    assert walk(task, Popularity(7)).ndcg_Q.mean() == pytest.approx(0.083, abs=0.002)
    assert walk(task, Popularity(28)).ndcg_Q.mean() == pytest.approx(0.076, abs=0.002)
