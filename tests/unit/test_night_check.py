"""What would spoil a model in silence is refused before training, in a sentence that names it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_jobs.nightly.check import DAY_MS, check
from ray_jobs.nightly.export import EVENTS_SCHEMA, TEXTS_SCHEMA
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night
from ray_jobs.nightly.workspace import DataRefused, Workspace
from ray_jobs.shards.item_block import ItemBlock
from ray_jobs.shards.items import Item
from sql import generations
from sql.engine import open_engine, read_snapshot
from sql.settings import StoreSettings
from sql.tables import metadata

NOW_MS = 1_900_000_000_000
ITEMS, A_DAY, DAYS = 50, 40, 10

Columns = dict[str, Any]


def a_usual_week() -> Columns:
    """A_DAY events on each of DAYS days, by ten users on all items, all different."""
    n = np.arange(A_DAY * DAYS)
    at_ms = NOW_MS - (n // A_DAY) * DAY_MS - 1_000 - (n % A_DAY) * 60_000
    return {
        "user_key": n % 10,
        "user_seq": n,
        "kind": np.full(len(n), "click", object),
        "item_id": np.array([f"i{k % ITEMS}" for k in n], object),
        "ordinal": n % ITEMS,
        "occurred_at_ms": at_ms,
        "received_at_ms": at_ms + 5,
    }


def night_of(
    root: Path, columns: Columns, texts: list[str] | None = None, **settings: Any
) -> Night:
    workspace = Workspace(root, "g1")
    workspace.make()
    rows = len(columns["user_key"])
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(rows, field.type)
        for field in EVENTS_SCHEMA
    ]
    pq.write_table(pa.table(arrays, schema=EVENTS_SCHEMA), workspace.events)
    items = [Item(k, f"i{k}", "", None, "{}", None, f"{k:032x}") for k in range(ITEMS)]
    pq.write_table(ItemBlock.of(items).table(), workspace.items)
    written = texts or [f"item {k}" for k in range(ITEMS)]
    digests = [f"{k:032x}" for k in range(ITEMS)]
    pq.write_table(
        pa.table({"text_digest": digests, "text": written}, schema=TEXTS_SCHEMA), workspace.texts
    )
    workspace.write_report("export", {"created_at_ms": NOW_MS, "events": rows})
    told = NightSettings(**{"check_min_events": 20, **settings})
    engine = open_engine(f"sqlite:///{root / 'moonlark.db'}")
    metadata.create_all(engine)
    generations.register(engine, "g1", encoder_id="e", catalog_seq=0, created_at_ms=NOW_MS)
    return Night(engine, StoreSettings(), told, workspace, lambda: NOW_MS)


def kept(night: Night) -> Columns:
    """The figures in the registry."""
    with read_snapshot(night.engine) as conn:
        found = generations.get_generation(conn, "g1")
    assert found is not None
    return dict(found.metrics)


def repeated(columns: Columns, rows: Any) -> Columns:
    return {name: np.concatenate([values, values[rows]]) for name, values in columns.items()}


def test_a_usual_week_passes_with_a_figure_for_each_check(tmp_path: Path) -> None:
    assert check(night_of(tmp_path, a_usual_week())) == {
        "check_duplicates": 0.0,
        "check_impossible_times": 0.0,
        "check_unknown_items": 0.0,
        "check_empty_texts": 0.0,
        "check_volume": 1.0,
        "check_user_share": 0.1,
        "check_item_share": pytest.approx(1 / A_DAY),
        "events": A_DAY * DAYS,
    }


def sent_twice(columns: Columns) -> Columns:
    return repeated(columns, slice(0, A_DAY * 2))


def clocks_ahead(columns: Columns) -> Columns:
    columns["occurred_at_ms"][::50] += DAY_MS
    return columns


def seconds_as_milliseconds(columns: Columns) -> Columns:
    columns["occurred_at_ms"][::50] = -5
    return columns


def half_a_catalog(columns: Columns) -> Columns:
    columns["ordinal"] = columns["ordinal"] * 3
    return columns


def an_outage(columns: Columns) -> Columns:
    kept = columns["received_at_ms"] < NOW_MS - DAY_MS
    kept[:4] = True
    return {name: values[kept] for name, values in columns.items()}


def a_robot(columns: Columns) -> Columns:
    columns["user_key"][: A_DAY // 2] = 99
    return columns


def one_item(columns: Columns) -> Columns:
    columns["ordinal"][: A_DAY * 3 // 4] = 7
    return columns


def a_flood(columns: Columns) -> Columns:
    flooded = repeated(columns, np.tile(np.arange(A_DAY), 5))
    flooded["value"] = np.arange(len(flooded["user_key"]), dtype=float)  # all different
    return flooded


@pytest.mark.parametrize(
    ("spoil", "setting"),
    [
        (sent_twice, "CHECK_MAX_DUPLICATES"),
        (clocks_ahead, "CHECK_MAX_IMPOSSIBLE_TIMES"),
        (seconds_as_milliseconds, "CHECK_MAX_IMPOSSIBLE_TIMES"),
        (half_a_catalog, "CHECK_MAX_UNKNOWN_ITEMS"),
        (an_outage, "CHECK_MIN_VOLUME"),
        (a_flood, "CHECK_MAX_VOLUME"),
        (a_robot, "CHECK_MAX_USER_SHARE"),
        (one_item, "CHECK_MAX_ITEM_SHARE"),
    ],
)
def test_each_is_refused_with_its_figure_its_limit_and_the_runbook(
    tmp_path: Path, spoil: Any, setting: str
) -> None:
    night = night_of(tmp_path, spoil(a_usual_week()))
    with pytest.raises(DataRefused) as refused:
        check(night)
    (sentence,) = str(refused.value).split(" (next: ")[0].split("; ")
    assert f"(MOONLARK_{setting})" in sentence
    assert " at most " in sentence or " at least " in sentence
    assert "infra/runbooks/NightDataRefused.md" in refused.value.hint
    figure = "check_" + setting.removeprefix("CHECK_").split("_", 1)[1].lower()
    assert f": {kept(night)[figure]:.4g}, at " in sentence, "kept though it was refused"


def test_a_catalog_without_texts_is_refused(tmp_path: Path) -> None:
    texts = ["" if k % 2 else f"item {k}" for k in range(ITEMS)]
    with pytest.raises(DataRefused, match=r"without a text: 0\.5, at most 0\.2"):
        check(night_of(tmp_path, a_usual_week(), texts))


def test_the_limit_is_a_setting(tmp_path: Path) -> None:
    night = night_of(tmp_path, a_robot(a_usual_week()), check_max_user_share=0.6)
    assert check(night)["check_user_share"] == 0.5


def test_a_history_that_was_brought_in_today_is_no_flood(tmp_path: Path) -> None:
    columns = a_usual_week()
    columns["received_at_ms"][A_DAY:] = NOW_MS - 1
    assert check(night_of(tmp_path, columns))["check_volume"] is None


def test_a_new_shop_is_measured_and_not_judged(tmp_path: Path) -> None:
    night = night_of(tmp_path, sent_twice(a_robot(a_usual_week())), check_min_events=10_000)
    report = check(night)
    assert {name for name, value in report.items() if value is not None} == {"events"}
