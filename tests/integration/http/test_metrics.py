"""What a replica tells of the live generation."""

import threading

import pytest

from serve.day import Day
from serve.metrics import AGE, DAY_NDCG, DELTA_SHARE, DESCRIPTIONS, NDCG, PARITY, Metrics, Reading
from sql import generations
from sql.errors import StoreUnavailable
from tests.integration.http.conftest import ITEMS, Stack


def day_of(stack: Stack) -> Day:
    day: Day = stack.replicas[0].app.state.day  # type: ignore[attr-defined]
    return day


def metrics_of(stack: Stack, told: list[Reading]) -> Metrics:
    day = day_of(stack)
    return Metrics(day.engine, day.watch, day.now_ms, told.append)


def test_figures_of_the_live_generation_are_told(stack: Stack) -> None:
    told: list[Reading] = []
    metrics = metrics_of(stack, told)
    day = {"ndcg@10": 0.3, "frozen_ndcg@10": 0.2}
    generations.add_metrics(stack.engine, "g1", {"ndcg@10": 0.5, "day": day})
    stack.publish("g2", seed=2)
    stack.flip("g2")
    figures = {"ndcg@10": 0.25, "parity_max_abs_diff": 1e-7}
    generations.add_metrics(stack.engine, "g2", figures)
    put = stack.replicas[0].put("/v1/items/fresh", json={"title": "a new rook"})
    assert put.status_code == 200
    day_of(stack).watch.look()
    metrics.look()
    values = {(reading.name, reading.of): reading.value for reading in told}
    assert values.pop((AGE, "")) >= 0
    assert values == {
        (NDCG, ""): 0.25,
        (DAY_NDCG, "live"): 0.3,
        (DAY_NDCG, "frozen"): 0.2,
        (PARITY, ""): 1e-7,
        (DELTA_SHARE, ""): pytest.approx(1 / ITEMS),
    }
    assert {reading.name for reading in told} == DESCRIPTIONS.keys()


def test_what_was_not_measured_is_not_told(stack: Stack) -> None:
    told: list[Reading] = []
    metrics_of(stack, told).look()
    assert {reading.name for reading in told} == {AGE, DELTA_SHARE}


def test_without_a_database_nothing_is_told_and_the_thread_goes_on(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve import metrics as module

    told: list[Reading] = []
    metrics = metrics_of(stack, told)
    went_on = threading.Event()
    looks = []

    def fails_once(self: Metrics) -> None:
        looks.append(1)
        if len(looks) == 1:
            raise StoreUnavailable("sqlite", "away")
        went_on.set()

    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    monkeypatch.setattr(Metrics, "look", fails_once)
    metrics.start()
    assert went_on.wait(30)
    metrics.stop()
