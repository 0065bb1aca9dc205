"""What a replica tells: of its requests, of itself, of the live generation, of the nights."""

import threading
from collections import Counter

import pytest
from sqlalchemy import update

from serve import metric_names as names
from serve.day import Day
from serve.metrics import Metrics, Reading, Told
from sql import generations
from sql.engine import write
from sql.errors import StoreUnavailable
from sql.events import EventKind, NewEvent, append
from sql.tables import erasures
from tests.integration.http.conftest import ITEMS, Stack


def day_of(stack: Stack) -> Day:
    day: Day = stack.replicas[0].app.state.day  # type: ignore[attr-defined]
    return day


def metrics_of(stack: Stack, told: list[Reading], interval_s: float = 5.0) -> Metrics:
    day = day_of(stack)
    day.metrics.stop()  # what was counted is handed on once
    parts = Told(
        day.engine,
        stack.root,
        day.watch,
        day.counts,
        day.write_behind,
        day.now_ms,
        interval_s,
    )
    return Metrics(parts, told.append)


def last(told: list[Reading]) -> dict[tuple[str, ...], float]:
    """(name, values of the labels ...) -> the last value."""
    return {(reading.name, *reading.labels.values()): reading.value for reading in told}


def test_figures_of_the_live_generation_are_told(stack: Stack) -> None:
    told: list[Reading] = []
    metrics = metrics_of(stack, told)
    day = {"ndcg@10": 0.3, "frozen_ndcg@10": 0.2}
    generations.add_metrics(stack.engine, "g1", {"ndcg@10": 0.5, "day": day})
    stack.publish("g2", seed=2)
    stack.flip("g2")
    figures = {
        "ndcg@10": 0.25,
        "parity_max_abs_diff": 1e-7,
        "index_recall": 0.99,
        "canary_min_cosine": 1.0,
        "steps": {"export": {"seconds": 2.0, "rows": 7}, "fuse": {"seconds": 3.0, "rows": None}},
    }
    generations.add_metrics(stack.engine, "g2", figures)
    put = stack.replicas[0].put("/v1/items/fresh", json={"title": "a new rook"})
    assert put.status_code == 200
    day_of(stack).watch.look()
    metrics.look()
    values = last(told)
    assert values[names.AGE,] >= 0
    assert values[names.NDCG,] == 0.25
    assert values[names.DAY_NDCG, "live"] == 0.3
    assert values[names.DAY_NDCG, "frozen"] == 0.2
    assert values[names.PARITY,] == 1e-7
    assert values[names.RECALL,] == 0.99
    assert values[names.CANARY,] == 1.0
    assert values[names.DELTA_SHARE,] == pytest.approx(1 / ITEMS)
    assert values[names.CATALOG_LAG,] == 0
    assert values[names.STEP_DURATION, "export"] == 2.0
    assert values[names.STEP_ROWS, "export"] == 7
    assert (names.STEP_ROWS, "fuse") not in values
    assert values[names.DATABASE_UP,] == 1
    assert values[names.DATABASE_SIZE,] > 0
    assert 0 < values[names.DISK_FREE,] < values[names.DISK_SIZE,]
    assert {reading.name for reading in told} <= names.METRICS.keys()


def test_who_holds_what_which_nights_failed_and_a_hold_are_told(stack: Stack) -> None:
    told: list[Reading] = []
    generations.heartbeat(stack.engine, "slow", [])
    for night, failed_as in (("n1", "GateRefused"), ("n2", "ValueError")):
        generations.register(
            stack.engine, night, encoder_id="e", catalog_seq=1, created_at_ms=2**41
        )
        generations.fail(stack.engine, night, "why")
        generations.add_metrics(stack.engine, night, {"failed_as": failed_as})
    at_ms = day_of(stack).now_ms()
    for night, began_ms in (("n3", at_ms - 5_000_000), ("n4", at_ms)):
        generations.register(
            stack.engine, night, encoder_id="e", catalog_seq=1, created_at_ms=began_ms
        )
    metrics_of(stack, told).look()
    values = last(told)
    assert 5_000 <= values[names.NIGHT_SILENT,] < 5_100
    assert values[names.REPLICAS, "live"] == 2
    assert values[names.REPLICAS, "nothing"] == 1
    assert values[names.REPLICAS, "older"] == 0
    assert values[names.NIGHTS_FAILED, "gate"] == 1
    assert values[names.NIGHTS_FAILED, "step"] == 1
    assert values[names.NIGHTS_FAILED, "data"] == 0
    assert values[names.HOLD, "night"] == values[names.HOLD, "person"] == 0
    assert values[names.ERASURE_OPEN,] == 0
    erasure = stack.replicas[0].delete("/v1/users/anna").json()["erasure_id"]
    with write(stack.engine) as conn:
        row = erasures.c.erasure_id == erasure
        conn.execute(update(erasures).where(row).values(erased_at_ms=at_ms - 7_000_000))
    stack.publish("g2", seed=2, damaged="weights.safetensors")
    stack.flip("g2", hold=True)
    day_of(stack).watch.look()
    metrics_of(stack, told).look()
    values = last(told)
    assert (values[names.HOLD, "night"], values[names.HOLD, "person"]) == (0, 1)
    assert values[names.REFUSED, "live"] == 1
    assert 7_000 <= values[names.ERASURE_OPEN,] < 7_100
    assert values[names.REFUSED, "previous"] == 0
    assert values[names.NIGHTS_FAILED, "gate"] == 1  # g2 is of 1970 here


def test_what_the_hourly_look_found_and_when_is_told(stack: Stack) -> None:
    told: list[Reading] = []
    stack.publish("g2", seed=2)
    stack.flip("g2")
    metrics, at_ms = metrics_of(stack, told), day_of(stack).now_ms()
    metrics.look()
    values = last(told)
    assert values[names.LIVE_UNVERIFIED,] > 1e9, "since it went live, in 1970"
    assert values[names.LIVE_BROKEN,] == 0
    assert (names.LIVE_RECALL,) not in values
    sound = generations.Verified(0.98, None, at_ms - 60_000)
    for found in (sound, sound._replace(broken="a bad byte")):
        generations.keep_verified(stack.engine, "g2", found)
        metrics.look()
        values = last(told)
        assert values[names.LIVE_BROKEN,] == (found.broken is not None)
        assert values[names.LIVE_RECALL,] == 0.98
        assert 60 <= values[names.LIVE_UNVERIFIED,] < 600
    flip = {"who": generations.BY_NIGHT, "why": "verify: g2", "hold": True, "at_ms": at_ms}
    generations.flip(stack.engine, "g1", expected_flip=2, **flip)
    metrics.look()
    values = last(told)
    assert values[names.LIVE_BROKEN,] == 0, "g1 is live, and was not found broken"
    assert values[names.LIVE_UNVERIFIED,] < 60
    assert (values[names.HOLD, "night"], values[names.HOLD, "person"]) == (1, 0)


def test_what_the_checks_of_the_newest_night_found_is_told(stack: Stack) -> None:
    told: list[Reading] = []
    engine = stack.engine
    for night, volume in (("n1", 1.0), ("n2", 7.5)):
        at_ms = 2**41 + int(volume)
        generations.register(engine, night, encoder_id="e", catalog_seq=1, created_at_ms=at_ms)
        figures = {"check_volume": volume, "check_duplicates": None}
        generations.add_metrics(engine, night, figures)
    generations.fail(engine, "n2", "check: a flood")
    generations.register(engine, "n3", encoder_id="e", catalog_seq=1, created_at_ms=2**42)
    metrics_of(stack, told).look()
    values = last(told)
    assert values[names.NIGHT_CHECK, "volume"] == 7.5
    assert (names.NIGHT_CHECK, "duplicates") not in values


def test_requests_are_counted_by_route_and_status_and_name_nobody(stack: Stack) -> None:
    told: list[Reading] = []
    metrics = metrics_of(stack, told)
    metrics.hand_on()
    told.clear()
    http = stack.replicas[0]
    for user in ("anna", "bert"):
        assert http.get(f"/v1/users/{user}/recommendations").status_code == 200
    assert http.get("/v1/users/anna/recommendations?k=0").status_code == 422
    assert http.request("BREW", "/v1/nothing/anna").status_code == 404
    event = {"kind": "click", "user_id": "anna", "item_id": "i1", "event_id": "e1"}
    assert http.post("/v1/events", json=event).status_code == 200
    assert http.post("/v1/events", json=event).status_code == 200
    metrics.hand_on()
    counted = {tuple(r.labels.values()): r.value for r in told if r.name == names.REQUESTS}
    route = "/v1/users/{user_id}/recommendations"
    assert counted == {
        (route, "GET", "200"): 2,
        (route, "GET", "422"): 1,
        ("other", "other", "404"): 1,
        ("/v1/events", "POST", "200"): 2,
    }
    observed = Counter(r.labels["route"] for r in told if r.name == names.DURATION)
    assert observed == {route: 3, "other": 1, "/v1/events": 2}
    events = {r.labels["outcome"]: r.value for r in told if r.name == names.EVENTS}
    assert events == {"stored": 1, "duplicate": 1}
    visible = [r.value for r in told if r.name == names.EVENT_TO_VISIBLE]
    assert len(visible) == 1, "of what is new: a client that sends the same again is no freshness"
    assert all(0 < seconds < 10 for seconds in visible)
    assert "anna" not in repr(told)
    told.clear()
    metrics.hand_on()
    assert told == []  # once


def test_a_new_replica_tells_of_the_last_event_before_it_stored_one(stack: Stack) -> None:
    told: list[Reading] = []
    metrics_of(stack, told).look()
    assert (names.LAST_EVENT,) not in last(told), "where none ever came"
    at_ms = day_of(stack).now_ms() - 5 * 3_600_000
    event = NewEvent("anna", "e1", EventKind.CLICK, "i1", occurred_at_ms=at_ms)
    append(stack.engine, [[event]], received_at_ms=at_ms)
    metrics = metrics_of(stack, told)
    metrics.look()
    assert last(told)[names.LAST_EVENT,] == at_ms / 1000
    posted = {"kind": "click", "user_id": "anna", "item_id": "i2", "event_id": "e2"}
    assert stack.replicas[0].post("/v1/events", json=posted).status_code == 200
    metrics.look()
    assert last(told)[names.LAST_EVENT,] > at_ms / 1000 + 3_600


def test_a_marked_list_is_counted_by_its_reason(stack: Stack) -> None:
    told: list[Reading] = []
    metrics = metrics_of(stack, told)
    metrics.hand_on()
    stack.publish("g2", seed=2, damaged="weights.safetensors")
    stack.flip("g2")
    answer = stack.replicas[0].get("/v1/users/anna/recommendations").json()
    assert answer["degraded"] == ["generation_behind"]
    metrics.hand_on()
    assert last(told)[names.DEGRADED, "generation_behind"] == 1


def test_what_was_not_measured_is_not_told(stack: Stack) -> None:
    told: list[Reading] = []
    metrics_of(stack, told).look()
    absent = {names.NDCG, names.RECALL, names.PARITY, names.CANARY, names.DAY_NDCG}
    assert not absent & {reading.name for reading in told}


def test_without_a_database_nothing_is_told_and_the_thread_goes_on(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = threading.Event()
    looks = []

    def fails_once(self: Metrics) -> None:
        looks.append(1)
        if len(looks) == 1:
            raise StoreUnavailable("sqlite", "away")
        went_on.set()

    monkeypatch.setattr(Metrics, "look", fails_once)
    metrics = metrics_of(stack, [], interval_s=0.01)
    metrics.start()
    assert went_on.wait(30)
    metrics.stop()


def test_a_database_that_is_away_is_told(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Metrics) -> None:
        raise StoreUnavailable("sqlite", "away")

    told: list[Reading] = []
    monkeypatch.setattr(Metrics, "_look_at_the_registry", away)
    with pytest.raises(StoreUnavailable):
        metrics_of(stack, told).look()
    assert last(told)[names.DATABASE_UP,] == 0
