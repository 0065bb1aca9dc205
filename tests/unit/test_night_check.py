"""What would spoil a model in silence is refused before training, in a sentence that names it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from ray_jobs.nightly.check import DAY_MS, check
from ray_jobs.nightly.export import EVENTS_SCHEMA, TEXTS_SCHEMA
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night
from ray_jobs.nightly.workspace import DataRefused, Workspace
from ray_jobs.shards.item_block import ItemBlock
from ray_jobs.shards.items import Item
from sql import generations
from sql.engine import open_engine, read_snapshot
from sql.generations import WATERMARK
from sql.settings import StoreSettings
from sql.tables import metadata

NOW_MS = 1_900_000_000_000
ITEMS, A_DAY, DAYS = 50, 40, 30
LAST_DAY = slice(0, A_DAY)

Columns = dict[str, Any]


def a_usual_log(days: int = DAYS) -> Columns:
    """A_DAY events on each of so many days, the last one first, by ten users on all items, all
    different."""
    n = np.arange(A_DAY * days)
    at_ms = NOW_MS - (n // A_DAY) * DAY_MS - 1_000 - (n % A_DAY) * 60_000
    return {
        "user_key": n % 10,
        "kind": np.full(len(n), "click", object),
        "item_id": np.array([f"i{k % ITEMS}" for k in n], object),
        "ordinal": n % ITEMS,
        "occurred_at_ms": at_ms,
        "received_at_ms": at_ms + 5,
    }


def numbered(columns: Columns) -> Columns:
    """In the order of the log: by user, then by receipt, which gives `user_seq`."""
    order = np.lexsort((columns["received_at_ms"], columns["user_key"]))
    logged = {name: values[order] for name, values in columns.items()}
    return {**logged, "user_seq": np.arange(len(order)) + 1}


def night_of(
    root: Path,
    columns: Columns,
    texts: list[str] | None = None,
    learned_until_ms: int | None = NOW_MS - DAY_MS,
    **settings: Any,
) -> Night:
    """`learned_until_ms`: where the log of the live generation ends; None: nothing is live."""
    columns = columns if "user_seq" in columns else numbered(columns)
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
    if learned_until_ms is not None:
        publish(engine, {WATERMARK: {"received_until_ms": learned_until_ms}})
    return Night(engine, StoreSettings(), told, workspace, lambda: NOW_MS)


def publish(engine: Engine, metrics: Columns) -> None:
    """g0 is live."""
    generations.register(engine, "g0", encoder_id="e", catalog_seq=0, created_at_ms=0)
    generations.seal(engine, "g0", manifest_digest="m", metrics=metrics)
    told: Any = {"who": "night", "why": "nightly publish", "hold": False, "at_ms": 0}
    generations.flip(engine, "g0", expected_flip=0, **told)


def kept(night: Night) -> Columns:
    """The figures in the registry."""
    with read_snapshot(night.engine) as conn:
        found = generations.get_generation(conn, "g1")
    assert found is not None
    return dict(found.metrics)


def repeated(columns: Columns, rows: Any) -> Columns:
    return {name: np.concatenate([values, values[rows]]) for name, values in columns.items()}


def test_a_usual_log_passes_with_a_figure_for_each_check(tmp_path: Path) -> None:
    assert check(night_of(tmp_path, a_usual_log())) == {
        "check_duplicates": 0.0,
        "check_impossible_times": 0.0,
        "check_unknown_items": 0.0,
        "check_empty_texts": 0.0,
        "check_volume": 1.0,
        "check_user_share": 0.1,
        "check_item_share": pytest.approx(1 / A_DAY),
        "events": A_DAY * DAYS,
    }


def sent_twice(columns: Columns, rows: slice = LAST_DAY) -> Columns:
    """Again half a second later, under other ids."""
    first = len(columns["user_key"])
    columns = repeated(columns, rows)
    columns["received_at_ms"][first:] += 500
    return columns


def sent_again(columns: Columns) -> Columns:
    """Today what was sent ten days ago."""
    first = len(columns["user_key"])
    columns = repeated(columns, slice(A_DAY * 10, A_DAY * 11))
    columns["received_at_ms"][first:] = NOW_MS - 1
    return columns


def clocks_ahead(columns: Columns, rows: slice = LAST_DAY) -> Columns:
    columns["occurred_at_ms"][rows] += DAY_MS
    return columns


def seconds_as_milliseconds(columns: Columns, rows: slice = slice(0, A_DAY // 2)) -> Columns:
    columns["occurred_at_ms"][rows] //= 1_000
    return columns


def another_catalog(columns: Columns, rows: slice = LAST_DAY) -> Columns:
    columns["ordinal"][rows] += ITEMS
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
        (sent_again, "CHECK_MAX_DUPLICATES"),
        (clocks_ahead, "CHECK_MAX_IMPOSSIBLE_TIMES"),
        (seconds_as_milliseconds, "CHECK_MAX_IMPOSSIBLE_TIMES"),
        (another_catalog, "CHECK_MAX_UNKNOWN_ITEMS"),
        (an_outage, "CHECK_MIN_VOLUME"),
        (a_flood, "CHECK_MAX_VOLUME"),
        (a_robot, "CHECK_MAX_USER_SHARE"),
        (one_item, "CHECK_MAX_ITEM_SHARE"),
    ],
)
def test_a_bad_day_is_refused_with_its_figure_its_limit_and_the_runbook(
    tmp_path: Path, spoil: Any, setting: str
) -> None:
    night = night_of(tmp_path, spoil(a_usual_log()))
    with pytest.raises(DataRefused) as refused:
        check(night)
    (sentence,) = str(refused.value).split(" (next: ")[0].split("; ")
    assert f"(MOONLARK_{setting})" in sentence
    assert " at most " in sentence or " at least " in sentence
    assert "infra/runbooks/NightDataRefused.md" in refused.value.hint
    figure = "check_" + setting.removeprefix("CHECK_").split("_", 1)[1].lower()
    assert f": {kept(night)[figure]:.4g}, at " in sentence, "kept though it was refused"


@pytest.mark.parametrize("spoil", [sent_twice, clocks_ahead, another_catalog])
def test_one_bad_day_is_refused_however_long_the_log_is(tmp_path: Path, spoil: Any) -> None:
    with pytest.raises(DataRefused, match="of the worst new day"):
        check(night_of(tmp_path, spoil(a_usual_log(days=300))))


@pytest.mark.parametrize(
    "spoil", [sent_twice, clocks_ahead, seconds_as_milliseconds, another_catalog]
)
def test_what_was_learned_long_ago_is_judged_with_the_whole_log(tmp_path: Path, spoil: Any) -> None:
    columns = spoil(a_usual_log(), slice(A_DAY, None))
    with pytest.raises(DataRefused):
        check(night_of(tmp_path, columns))


def test_a_refused_day_stays_refused_until_a_night_was_published(tmp_path: Path) -> None:
    columns = sent_twice(a_usual_log(), slice(A_DAY * 3, A_DAY * 4))
    before_ms, after_ms = NOW_MS - 5 * DAY_MS, NOW_MS - 2 * DAY_MS
    for live, learned_until_ms in (("before", before_ms), ("nothing", None)):
        night = night_of(tmp_path / live, columns, learned_until_ms=learned_until_ms)
        with pytest.raises(DataRefused, match=r"repeat an earlier one.*: 0\.5, at most"):
            check(night)
    check(night_of(tmp_path / "after", columns, learned_until_ms=after_ms))


def test_what_was_taken_back_is_not_judged(tmp_path: Path) -> None:
    columns = numbered(sent_twice(a_usual_log()))
    undone = np.flatnonzero(columns["received_at_ms"] - columns["occurred_at_ms"] > 5)
    assert len(undone) == A_DAY
    columns = repeated(columns, undone)
    seqs = columns["user_seq"].astype(object)
    columns["undoes_seq"] = np.full(len(seqs), None, object)
    columns["undoes_seq"][-A_DAY:] = seqs[-A_DAY:]
    columns["kind"][-A_DAY:] = "undo"
    columns["received_at_ms"][-A_DAY:] = NOW_MS - 1
    columns["user_seq"][-A_DAY:] += len(seqs)
    order = np.lexsort((columns["user_seq"], columns["user_key"]))
    report = check(night_of(tmp_path, {name: values[order] for name, values in columns.items()}))
    assert (report["check_duplicates"], report["check_volume"]) == (0.0, 1.0)


def test_a_day_of_few_events_is_not_judged_by_itself(tmp_path: Path) -> None:
    columns = {name: values[A_DAY - 9 :] for name, values in a_usual_log().items()}
    report = check(night_of(tmp_path, sent_twice(columns, slice(0, 9))))
    assert report["check_duplicates"] == pytest.approx(9 / (A_DAY * 29 + 18))


def test_a_catalog_without_texts_is_refused(tmp_path: Path) -> None:
    texts = ["" if k % 2 else f"item {k}" for k in range(ITEMS)]
    with pytest.raises(DataRefused, match=r"without a text: 0\.5, at most 0\.2"):
        check(night_of(tmp_path, a_usual_log(), texts))


def test_the_limit_is_a_setting(tmp_path: Path) -> None:
    night = night_of(tmp_path, a_robot(a_usual_log()), check_max_user_share=0.6)
    assert check(night)["check_user_share"] == 0.5


def test_a_history_that_was_brought_in_today_is_no_flood(tmp_path: Path) -> None:
    columns = a_usual_log()
    columns["received_at_ms"][A_DAY:] = NOW_MS - 1
    assert check(night_of(tmp_path, columns))["check_volume"] is None


@pytest.mark.parametrize("learned_until_ms", [None, NOW_MS - DAY_MS])
def test_a_history_on_items_some_of_which_are_gone_passes(
    tmp_path: Path, learned_until_ms: int | None
) -> None:
    """As the first log of a shop, and beside one that goes on."""
    columns = another_catalog(a_usual_log(), slice(A_DAY * 18, None))
    brought_in = slice(0 if learned_until_ms is None else A_DAY * 18, None)
    columns["received_at_ms"][brought_in] = NOW_MS - 1
    report = check(night_of(tmp_path, columns, learned_until_ms=learned_until_ms))
    assert report["check_unknown_items"] == pytest.approx(12 / 30)


def test_a_new_shop_is_measured_and_not_judged(tmp_path: Path) -> None:
    night = night_of(tmp_path, sent_twice(a_robot(a_usual_log())), check_min_events=10_000)
    report = check(night)
    assert {name for name, value in report.items() if value is not None} == {"events"}
