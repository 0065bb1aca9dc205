"""Ingesting into a real SQLite database: order, repeats, late events, rejected rows, embedding."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from infra.ingest import catalog, history
from infra.ingest.catalog import ItemsReport, check_encoder, read_item_rows, write_items
from infra.ingest.columns import Columns
from infra.ingest.errors import EncoderMismatch, TooManyEvents
from infra.ingest.history import EventsReport, read_event_rows, write_events
from infra.ingest.pace import Pace
from infra.ingest.readers import Rows
from infra.ingest.rejects import Rejects
from infra.ingest.rows import EventIds, to_event
from sql.catalog import read_item, read_item_vectors
from sql.engine import migrate, open_engine, read_snapshot
from sql.events import StoredEvent, find_user, read_tail
from sql.generations import flip, register, seal
from sql.tables import item_activity
from sql.tables import items as items_table

PACE = Pace(items=2, events=3, pause_s=0, sleep=lambda _: None)
PLAIN = Columns.parse()
DAY_S = 86_400


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = open_engine(f"sqlite:///{tmp_path / 'moonlark.db'}")
    migrate(engine)
    return engine


@pytest.fixture
def rejects(tmp_path: Path) -> Rejects:
    return Rejects(tmp_path / "rejected.jsonl")


def source(rows: Sequence[dict[str, Any]]) -> Rows:
    return Rows(Path("rows.jsonl"), (), len(rows), iter(list(enumerate(rows, start=1))))


def put(engine: Engine, rows: Sequence[dict[str, Any]], rejects: Rejects, **options: Any) -> Any:
    with rejects:
        items = read_item_rows(source(rows), options.pop("columns", PLAIN), rejects)
        return write_items(engine, items, rejects=rejects, at_ms=1, pace=PACE, **options)


def post(engine: Engine, rows: Sequence[dict[str, Any]], rejects: Rejects, **options: Any) -> Any:
    with rejects:
        events = read_event_rows(source(rows), options.pop("columns", PLAIN), rejects)
        options = {"received_at_ms": 10**12, "pace": PACE, **options}
        return write_events(engine, events, rejects=rejects, **options)


def reasons(rejects: Rejects) -> list[dict[str, Any]]:
    if not rejects.path.exists():
        return []
    return [json.loads(line) for line in rejects.path.read_text().splitlines()]


def log_of(engine: Engine, user_id: str) -> list[StoredEvent]:
    with read_snapshot(engine) as conn:
        user = find_user(conn, user_id)
        return read_tail(conn, user.user_key, 0, 1000) if user else []


def catalog_of(engine: Engine, *ids: str, rejects: Rejects) -> None:
    put(engine, [{"item_id": item_id, "title": f"Item {item_id}"} for item_id in ids], rejects)


def click(user: str, item: str, day: int, **more: Any) -> dict[str, Any]:
    return {
        "user_id": user,
        "item_id": item,
        "kind": "click",
        "occurred_at": day * DAY_S,
        **more,
    }


def test_items_are_created_updated_and_left_alone(engine: Engine, rejects: Rejects) -> None:
    columns = Columns.parse(maps=["attributes.year=y"], lists=["genres= "], types=["year=int"])
    row = {"item_id": 7, "title": "A", "category": "c", "genres": "X Y", "y": "1995"}
    other = {
        "item_id": "8",
        "title": "B",
        "published_at": "1995-01-01",
        "attributes": {"new": True},
    }
    assert put(engine, [row, other], rejects, columns=columns) == ItemsReport(2, 0, 0, 0)
    again = put(engine, [row, {**other, "title": "B2"}], rejects, columns=columns)
    assert again == ItemsReport(0, 1, 1, 0)
    with read_snapshot(engine) as conn:
        first, second = read_item(conn, "7"), read_item(conn, "8")
    assert first is not None
    assert second is not None
    assert first.body.attributes == {"genres": ["X", "Y"], "year": 1995}
    assert second.body.title == "B2"
    assert second.body.published_at_ms == 788_918_400_000
    assert reasons(rejects) == []


def test_a_bad_item_is_rejected_with_its_reason_and_hinders_no_other(
    engine: Engine, rejects: Rejects
) -> None:
    rows = [
        {"item_id": "1", "title": "good", "version": 5},
        {"title": "no id"},
        {"item_id": "3"},
        {"item_id": "4", "title": "x" * 501},
        {"item_id": "5", "title": "t", "published_at": "soon"},
        {"item_id": "6", "title": "t", "attributes": {"deep": {"no": 1}}},
        {"item_id": "1", "title": "older", "version": 4},
        {"item_id": "caf\udce9", "title": "not utf-8"},
    ]
    assert put(engine, rows, rejects).created == 1
    rejected = {(line["line"], line["field"]) for line in reasons(rejects)}
    assert rejected == {
        (2, "item_id"),
        (3, "title"),
        (4, "title"),
        (5, "published_at"),
        (6, "attributes.deep"),
        (7, "version"),
        (8, "item_id"),
    }
    assert rejects.rows == 7


def test_events_are_stored_in_order_of_time_ties_in_file_order(
    engine: Engine, rejects: Rejects
) -> None:
    catalog_of(engine, *"abcdef", rejects=rejects)
    rows = [
        click("u", "f", 9),
        click("u", "b", 5),
        click("v", "a", 1),
        click("u", "c", 5),
        click("u", "a", 2),
        click("u", "d", 5),
    ]
    assert post(engine, rows, rejects) == EventsReport(stored=6, duplicates=0)
    log = log_of(engine, "u")
    assert [event.item_id for event in log] == ["a", "b", "c", "d", "f"]
    assert [event.user_seq for event in log] == [1, 2, 3, 4, 5]


def test_the_same_file_twice_stores_nothing_twice(engine: Engine, rejects: Rejects) -> None:
    catalog_of(engine, "a", "b", rejects=rejects)
    rows = [click("u", "a", 1), click("u", "a", 1), click("u", "b", 2), click("v", "a", 3)]
    assert post(engine, rows, rejects) == EventsReport(stored=4, duplicates=0)
    assert post(engine, rows, rejects) == EventsReport(stored=0, duplicates=4)
    assert rejects.rows == 0
    assert len(log_of(engine, "u")) == 3  # two equal clicks in one second are two


def test_an_ingestion_that_broke_off_goes_on_where_it_was(engine: Engine, rejects: Rejects) -> None:
    catalog_of(engine, "a", "b", rejects=rejects)
    rows = [click("u", "ab"[n % 2], n // 2) for n in range(10)]

    class Killed(Exception):
        pass

    def kill(_: float) -> None:
        raise Killed

    with pytest.raises(Killed):
        post(engine, rows, rejects, pace=Pace(events=3, sleep=kill))
    assert len(log_of(engine, "u")) == 3
    assert post(engine, rows, rejects) == EventsReport(stored=7, duplicates=3)
    assert [event.occurred_at_ms // 1000 // DAY_S for event in log_of(engine, "u")] == [
        n // 2 for n in range(10)
    ]
    assert rejects.rows == 0


def test_the_past_of_a_user_with_a_present_is_refused_unless_late_is_asked_for(
    engine: Engine, rejects: Rejects
) -> None:
    catalog_of(engine, "a", "b", rejects=rejects)
    post(engine, [click("u", "a", 100)], rejects)
    rows = [click("u", "b", 50), click("u", "a", 100), click("u", "b", 150), click("v", "b", 50)]
    assert post(engine, rows, rejects) == EventsReport(stored=2, duplicates=1)
    (reason,) = reasons(rejects)
    assert (reason["line"], reason["field"]) == (1, "occurred_at")
    assert "--late" in reason["reason"]
    assert post(engine, rows, rejects, late=True) == EventsReport(stored=1, duplicates=3)
    assert [event.occurred_at_ms // 1000 // DAY_S for event in log_of(engine, "u")] == [
        100,
        150,
        50,
    ]


def test_a_bad_event_is_rejected_with_its_reason_and_hinders_no_other(
    engine: Engine, rejects: Rejects
) -> None:
    catalog_of(engine, "a", rejects=rejects)
    rows = [
        click("u", "a", 1),
        click("", "a", 1),
        click("u", "nowhere", 2),
        {**click("u", "a", 2), "kind": "viewed"},
        {**click("u", "a", 2), "kind": "rating", "value": 9},
        {**click("u", "a", 2), "kind": "rating"},
        {**click("u", "a", 2), "kind": "search", "item_id": None, "text": ""},
        {**click("u", "a", 2), "occurred_at": None},
        click("u", "a", 3),
        click("u", "a", 4, event_id="twice"),
        {**click("u", "a", 4, event_id="twice"), "kind": "view"},
    ]
    assert post(engine, rows, rejects) == EventsReport(stored=3, duplicates=0)
    rejected = {line["line"]: line["field"] for line in reasons(rejects)}
    assert rejected == {
        2: "user_id",
        3: "item_id",
        4: "kind",
        5: "value",
        6: "value",
        7: "text",
        8: "occurred_at",
        11: "event_id",
    }


def test_unknown_items_are_kept_when_asked(engine: Engine, rejects: Rejects) -> None:
    report = post(engine, [click("u", "gone", 1)], rejects, keep_unknown_items=True)
    assert report == EventsReport(stored=1, duplicates=0)
    (event,) = log_of(engine, "u")
    assert (event.item_id, event.text_digest) == ("gone", None)
    assert event.ordinal is not None  # the one that the item will have when it is put


def test_every_kind_can_be_ingested_and_an_undo_finds_its_event(
    engine: Engine, rejects: Rejects
) -> None:
    catalog_of(engine, "a", rejects=rejects)
    rows = [
        click("u", "a", 1, event_id="e1"),
        {"user_id": "u", "kind": "search", "text": "noir", "occurred_at": 2},
        {"user_id": "u", "kind": "undo", "undoes": "e1", "occurred_at": 3 * DAY_S},
    ]
    assert post(engine, rows, rejects).stored == 3
    assert [event.undoes_seq for event in log_of(engine, "u")] == [None, None, 2]


def test_more_events_than_fit_are_refused_before_anything_is_stored(rejects: Rejects) -> None:
    rows = [click("u", "a", n) for n in range(4)]
    with pytest.raises(TooManyEvents) as caught:
        read_event_rows(source(rows), PLAIN, rejects, limit=3)
    assert "split it by time" in caught.value.hint


def test_an_event_id_depends_on_what_the_event_says_not_on_where_it_stands() -> None:
    def ids(rows: Sequence[dict[str, Any]]) -> list[str]:
        made = EventIds()
        parsed = [to_event(n, row, PLAIN, made) for n, row in enumerate(rows)]
        return [row.event.event_id for row in parsed if not isinstance(row, tuple)]

    one, two = click("u", "a", 1), click("u", "b", 1)
    assert ids([one, two]) == list(reversed(ids([two, one])))
    assert len(set(ids([one, one, two, click("v", "a", 1), click("u", "a", 2)]))) == 5


class FakeBert:
    """Counts what it encodes."""

    encoder_id = "bert-1"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        rows = np.ones((len(texts), 4), np.float32) / 2
        return rows


def test_items_put_while_a_generation_is_live_have_vectors(
    engine: Engine, rejects: Rejects
) -> None:
    bert = FakeBert()
    rows = [{"item_id": str(n), "title": f"Film {n % 3}"} for n in range(5)]
    assert put(engine, rows, rejects, encoder=bert).embedded == 3  # one a text
    assert bert.texts == ["Film 0", "Film 1", "Film 2"]
    assert put(engine, rows, rejects, encoder=bert).embedded == 0
    with read_snapshot(engine) as conn:
        digests = list(conn.execute(select(items_table.c.text_digest)).scalars())
        vectors = read_item_vectors(conn, "bert-1", digests)
    assert len(set(digests)) == len(vectors) == 3


def test_another_bert_than_the_live_generations_is_refused(engine: Engine) -> None:
    check_encoder(engine, FakeBert())  # nothing is live: nothing to be compared with
    make_live(engine, "g1", encoder_id="bert-0")
    with read_snapshot(engine) as conn:
        assert catalog.live_encoder_id(conn) == "bert-0"
    with pytest.raises(EncoderMismatch, match=r"bert-0.*bert-1"):
        check_encoder(engine, FakeBert())


def make_live(engine: Engine, generation_id: str, encoder_id: str) -> None:
    register(engine, generation_id, encoder_id=encoder_id, catalog_seq=0, created_at_ms=1)
    seal(engine, generation_id, manifest_digest="d", metrics={})
    flip(engine, generation_id, expected_flip=0, who="t", why="t", hold=False, at_ms=1)


def test_a_long_history_is_no_burst_it_is_outside_the_daily_limit_and_counts_where_it_happened(
    engine: Engine, rejects: Rejects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sql.event_rules.MAX_EVENTS_PER_USER_DAY", 4)
    catalog_of(engine, "a", rejects=rejects)
    rows = [click("u", "a", n) for n in range(6)]
    assert post(engine, rows, rejects) == EventsReport(stored=6, duplicates=0)
    with read_snapshot(engine) as conn:
        hours = conn.execute(select(item_activity.c.hour).order_by("hour")).scalars().all()
    assert hours == [n * 24 for n in range(6)]
    assert history.MAX_EVENTS_IN_MEMORY >= 1_000_000
