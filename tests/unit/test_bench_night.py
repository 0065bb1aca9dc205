"""The bench of the night: its catalogs, and what it says of the times that it took."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from infra.bench.night import PLANS
from infra.bench.night_catalog import change_texts, fill_catalog, fill_log
from infra.bench.night_report import NightTimes, ratios, report, speed_ups
from infra.datasets.movielens import Event, Item, MovieLens
from sql import catalog
from sql.engine import migrate, open_engine, read_snapshot
from sql.events import iterate_log

FILMS = tuple(Item(f"f{n}", f"Film {n}", "", "Drama", {}) for n in range(10))
RATINGS = tuple(
    Event(f"u{user}", f"f{(user + step) % 10}", "rating", 3.0, 1_000 * step)
    for user in range(4)
    for step in range(8)
)
DATA = MovieLens(FILMS, RATINGS)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An empty store."""
    opened = open_engine(f"sqlite:///{tmp_path / 'moonlark.db'}")
    migrate(opened)
    return opened


def digests(engine: Engine) -> list[str]:
    with read_snapshot(engine) as conn:
        return [item.text_digest for item in catalog.read_items(conn, -1, 1_000)]


def test_each_text_is_distinct_and_one_percent_changes(engine: Engine) -> None:
    fill_catalog(engine, DATA, 300)
    before = digests(engine)
    assert len(set(before)) == len(before) == 300
    assert change_texts(engine, DATA, 300, 0.01) == 3
    after = digests(engine)
    assert len(set(after)) == 300
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 3


@pytest.mark.parametrize("items", [7, 300])
def test_the_log_is_of_items_of_the_catalog_in_order_of_time(engine: Engine, items: int) -> None:
    fill_catalog(engine, DATA, items)
    stored = fill_log(engine, DATA, items, events=12, seed=0)
    with read_snapshot(engine) as conn:
        log = [event for chunk in iterate_log(conn) for event in chunk]
    assert len(log) == stored
    assert 10 <= stored <= 24
    assert all(event.ordinal is not None and event.text_digest for event in log)
    for user_key in {event.user_key for event in log}:
        times = [event.occurred_at_ms for event in log if event.user_key == user_key]
        assert times == sorted(times)


def night(name: str, embed_s: float, embedded: int, kept: int) -> NightTimes:
    steps = ("export", "embed", "train", "build", "fuse", "fold", "evaluate", "publish")
    seconds = dict.fromkeys(steps, 2.0) | {"embed": embed_s}
    reports = {
        "export": {"items": embedded + kept, "events": 10, "users": 2},
        "embed": {"embedded": embedded, "reused": kept},
    }
    floors = dict.fromkeys(("export", "build", "fuse", "fold", "evaluate", "publish"), 1.0)
    return NightTimes(name, seconds, reports, floors | {"embed": embedded / 100})


def test_an_unchanged_text_is_told_by_what_it_costs_beside_a_new_one() -> None:
    first = night("first", embed_s=100.0, embedded=10_000, kept=0)
    second = night("second", embed_s=1.99, embedded=100, kept=9_900)
    told = {ratio.name: ratio for ratio in ratios(first, second, night("made", 0.0, 0, 0))}
    # 0.99 s for 9,900 texts is a hundredth of 100 s for 10,000.
    assert told["an unchanged text"].value == pytest.approx(0.01)
    assert told["embed"].value == pytest.approx(1.0)
    assert told["build, made vectors"].value == pytest.approx(2.0)


def test_speed_ups_are_one_worker_by_two() -> None:
    one, two = night("one", 10.0, 100, 0), night("two", 8.0, 100, 0)
    assert {r.name: r.value for r in speed_ups(one, two)} == {
        "embed by 2 workers": pytest.approx(1.25),
        "train by 2 workers": pytest.approx(1.0),
    }


def test_the_report_names_what_was_left_out() -> None:
    nights = [night("first", 9.0, 100, 0), night("second", 1.0, 1, 99), night("made", 0.0, 0, 0)]
    found = report(PLANS["small"], nights, nights[:2])
    assert len(found.tables) == 4
    assert any("skips embed" in note for note in found.notes)
