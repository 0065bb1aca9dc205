"""Counts by hour, with a clock that is moved by hand: how fresh they are, and what is read."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from ray_jobs.ranking.trend import HOUR_MS
from ray_jobs.shards.items import Item, ItemTable
from serve import trending as trending_module
from serve.trending import MAX_HOURS, Trending
from sql.activity import HourCounts, read_hour
from sql.catalog import ItemBody, ItemPut, put_items
from sql.engine import migrate, open_engine
from sql.event import EventKind, NewEvent
from sql.events import append

HOUR = 500_000
ITEMS = ItemTable.of(Item(n, f"i{n}", "t", None, "{}", None, "d") for n in range(4))


class Clock:
    """Time, moved by hand."""

    def __init__(self) -> None:
        self.ms = HOUR * HOUR_MS + 600_000

    def __call__(self) -> int:
        return self.ms


class Store:
    """An engine, a clock, and which hours were read."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.clock = engine, Clock()
        self.read: list[int] = []
        self.count = 0

    def act(self, kind: str, item: str, *, undoes: str | None = None) -> str:
        self.count += 1
        event_id = f"e{self.count}"
        item_id = item if undoes is None else None
        event = NewEvent("u", event_id, EventKind(kind), item_id, undoes=undoes)
        append(self.engine, [[event]], received_at_ms=self.clock.ms)
        return event_id


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    engine = open_engine(f"sqlite:///{tmp_path / 'm.db'}")
    migrate(engine)
    puts = [ItemPut(f"i{n}", ItemBody(title="t"), "t", "d", None, {}) for n in range(4)]
    put_items(engine, puts, at_ms=1)
    made = Store(engine)

    def read(conn, hour, weights, limit, pause):  # type: ignore[no-untyped-def]
        made.read.append(hour)
        return read_hour(conn, hour, weights, limit, pause)

    monkeypatch.setattr(trending_module, "read_hour", read)
    return made


def test_an_event_counts_within_a_second_and_is_not_asked_for_before(store: Store) -> None:
    trending = Trending(store.engine, store.clock)
    assert not trending.trends(ITEMS, store.clock.ms, 1).activity.any()
    click = store.act("click", "i2")
    store.clock.ms += 999
    early = trending.trends(ITEMS, store.clock.ms, 1)
    assert (early.age_ms, early.activity.any()) == (999, False)
    store.clock.ms += 1
    fresh = trending.trends(ITEMS, store.clock.ms, 1)
    assert (fresh.age_ms, fresh.activity.tolist()) == (0, [0, 0, 1, 0])
    store.act("undo", "i2", undoes=click)
    store.clock.ms += 1_000
    assert not trending.trends(ITEMS, store.clock.ms, 1).activity.any()


def test_an_hour_of_very_many_items_is_read_less_often_and_tells_its_age(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trending_module, "ROWS_A_SECOND", 1)
    for item in range(4):  # four rows: to be read in four seconds
        store.act("click", f"i{item}")
    trending = Trending(store.engine, store.clock)
    kept = trending.activity_since(HOUR, store.clock.ms)
    store.act("click", "i0")
    store.clock.ms += 3_999
    late = trending.trends(ITEMS, store.clock.ms, 1)
    assert (late.age_ms, late.activity.tolist()) == (3_999, [1, 1, 1, 1])
    assert trending.activity_since(HOUR, store.clock.ms).ordinals.tolist() == kept.ordinals.tolist()
    store.clock.ms += 1
    fresh = trending.trends(ITEMS, store.clock.ms, 1)
    assert fresh.activity.tolist() == [2, 1, 1, 1]
    assert fresh.age_ms == 1, "that of the hour before, in which nothing was done"


def test_a_refresh_reads_few_hours_however_many_are_asked_for(store: Store) -> None:
    trending = Trending(store.engine, store.clock)
    trending.trends(ITEMS, store.clock.ms, MAX_HOURS)
    assert len(store.read) == len(set(store.read)) == MAX_HOURS + 1
    turned: set[int] = set()
    for _ in range(MAX_HOURS - 1):
        store.read.clear()
        store.clock.ms += 1_000
        trending.trends(ITEMS, store.clock.ms, MAX_HOURS)
        trending.trends(ITEMS, store.clock.ms, 3)
        assert set(store.read) >= {HOUR, HOUR - 1}
        assert len(store.read) == 3
        turned |= set(store.read)
    assert turned == set(range(HOUR - MAX_HOURS, HOUR + 1))


def test_an_hour_that_was_read_before_it_was_over_is_read_again_after_a_rest(store: Store) -> None:
    trending = Trending(store.engine, store.clock)
    trending.trends(ITEMS, store.clock.ms, 24)
    store.clock.ms += 1
    store.act("purchase", "i3")
    store.clock.ms += 5 * HOUR_MS  # nobody asks
    later = trending.trends(ITEMS, store.clock.ms, 24)
    assert later.activity[3] == pytest.approx(8 * 0.5 ** (5 / 12))


def test_an_undo_in_an_old_hour_is_seen_when_its_turn_comes(store: Store) -> None:
    event_id = store.act("click", "i1")
    store.clock.ms += 4 * HOUR_MS
    trending = Trending(store.engine, store.clock)
    assert trending.trends(ITEMS, store.clock.ms, 6).activity[1] > 0
    store.act("undo", "i1", undoes=event_id)
    for _ in range(7):
        store.clock.ms += 1_000
        trends = trending.trends(ITEMS, store.clock.ms, 6)
    assert trends.activity[1] == 0


def test_what_was_is_asked_for_by_as_of_and_not_kept(store: Store) -> None:
    store.act("view", "i0")
    then = store.clock.ms
    store.clock.ms += 400 * HOUR_MS
    trending = Trending(store.engine, store.clock)
    for _ in range(2):
        assert trending.trends(ITEMS, then, 1).activity.tolist() == [0.5, 0, 0, 0]
    assert store.read.count(HOUR) == 2
    assert trending.trends(ITEMS, -HOUR_MS, 1).activity.sum() == 0


def test_who_makes_it_ahead_reads_again_before_it_is_old(store: Store) -> None:
    trending = Trending(store.engine, store.clock)
    store.act("click", "i1")
    first = trending.activity_since(HOUR, store.clock.ms)
    store.act("click", "i2")
    store.clock.ms += 500
    assert trending.activity_since(HOUR, store.clock.ms) is first
    ahead = trending.activity_since(HOUR, store.clock.ms, early_ms=trending_module.REFRESH_MS)
    assert ahead.ordinals.tolist() == [1, 2]
    assert trending.activity_since(HOUR, store.clock.ms) is ahead


def test_who_asks_does_not_wait_for_what_is_read_ahead(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trending = Trending(store.engine, store.clock)
    store.act("click", "i1")
    trending.trends(ITEMS, store.clock.ms, 1)
    first = trending.activity_since(HOUR, store.clock.ms)
    begun, may_end = threading.Event(), threading.Event()

    def slow(*of_hour: Any) -> HourCounts:
        begun.set()
        assert may_end.wait(30), "nobody lets it end"
        return read_hour(*of_hour)

    monkeypatch.setattr(trending_module, "read_hour", slow)
    store.act("click", "i2")
    ahead = threading.Thread(
        target=trending.activity_since, args=(HOUR, store.clock.ms, trending_module.REFRESH_MS)
    )
    ahead.start()
    assert begun.wait(30)
    store.clock.ms += 1
    trends = trending.trends(ITEMS, store.clock.ms, 1)
    assert (trends.activity.tolist(), trends.age_ms) == ([0, 1, 0, 0], 1)
    assert trending.activity_since(HOUR, store.clock.ms) is first
    may_end.set()
    ahead.join(30)
    assert trending.activity_since(HOUR, store.clock.ms).ordinals.tolist() == [1, 2]
