"""Drills in short, on one real stack: what is switched, killed or frozen breaks no promise."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from infra.drills import kill_replica, kill_serve, pause
from infra.drills.figures import Figures, Options
from infra.drills.night_worker import make
from infra.drills.shoppers import Load
from infra.drills.stack import DrillStack, drill_stack, now_ms
from infra.drills.switch import run_on
from sql import generations
from sql.engine import read_snapshot

ITEMS = 300
USERS = 400
FEW = Load(writers=2, readers=2)
"""The tests of a machine of two cores run beside others; `make drills` has the whole load."""


@pytest.fixture(scope="module")
def stack() -> Iterator[DrillStack]:
    """Two replicas that look often, so that nothing here takes long."""
    look_often = {"MOONLARK_WATCH_INTERVAL_S": "0.1"}
    with drill_stack(items=ITEMS, users=USERS, seed=3, env=look_often) as made:
        yield made


@pytest.mark.timeout(1_200)
def test_a_publish_a_switch_back_and_a_rollback_with_hold_break_no_promise(
    stack: DrillStack,
) -> None:
    figures = run_on(stack, Options(rounds=3, seed=3, progress=False), items=ITEMS)
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.acked > 50
    assert figures.more["answers"] > 50
    assert figures.more["generations_that_answered"] == 2
    assert figures.parity_max_abs_diff is not None
    assert figures.parity_max_abs_diff < 1e-5


def kept_every_promise(figures: Figures) -> None:
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.acked > 100
    assert figures.more["answers"] > 10
    assert figures.parity_max_abs_diff is not None
    assert figures.parity_max_abs_diff < 1e-5


@pytest.mark.timeout(1_200)
def test_a_replica_killed_among_writes_and_reads_breaks_no_promise_and_fails_no_request(
    stack: DrillStack,
) -> None:
    kept_every_promise(
        kill_replica.run_on(stack, Options(2, seed=4, progress=False), load=FEW, items=ITEMS)
    )


@pytest.mark.timeout(1_200)
def test_without_serves_controller_nothing_is_lost_and_another_one_goes_on(
    stack: DrillStack,
) -> None:
    options = Options(1, seed=5, progress=False)
    kept_every_promise(kill_serve.controller_on(stack, options, items=ITEMS))


@pytest.mark.timeout(1_200)
def test_without_the_proxy_nothing_is_lost_and_another_one_goes_on(stack: DrillStack) -> None:
    options = Options(1, seed=6, progress=False)
    figures = kill_serve.proxy_on(stack, options, items=ITEMS)
    kept_every_promise(figures)


@pytest.mark.timeout(1_200)
def test_a_frozen_replica_and_a_clock_an_hour_off_hold_no_lease_that_is_lost(
    stack: DrillStack,
) -> None:
    options = Options(2, seed=7, progress=False)
    figures = pause.run_on(stack, options, pause_s=9.0, load=FEW, items=ITEMS)
    kept_every_promise(figures)
    assert figures.more["generations_that_answered"] > 1
    assert figures.more["publish_waited_s_max"] < 60  # it waited for no replica that was frozen


def ask(http: httpx.Client) -> dict[str, Any] | None:
    """A list; None where nobody answers: both replicas are replaced at once here, since the one
    that has the generation is made up."""
    try:
        answer = http.get("/v1/users/idle1/recommendations")
    except httpx.HTTPError:
        return None
    if answer.status_code != 200:
        return None
    body: dict[str, Any] = answer.json()
    return body


def leases(stack: DrillStack) -> set[str]:
    with read_snapshot(stack.engine) as conn:
        found = generations.fresh_replicas(conn)
    return {replica.replica_id for replica in found} - {"elsewhere"}


@pytest.mark.timeout(1_200)
def test_replicas_that_stay_behind_another_are_replaced_and_answer_marked_until_then(
    stack: DrillStack,
) -> None:
    stack.night.submit(make, stack.database_url, stack.root, "g9", 9).result()
    weights = stack.root / "generations" / "g9" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    before = leases(stack)
    with read_snapshot(stack.engine) as conn:
        live = generations.read_live(conn)
    assert live is not None
    generations.stage(stack.engine, "g9")
    generations.flip(
        stack.engine,
        "g9",
        expected_flip=live.flip,
        who="test",
        why="its weights are damaged",
        hold=False,
        at_ms=now_ms(),
    )
    deadline, marked = time.monotonic() + 240, 0
    with httpx.Client(base_url=stack.url, timeout=30) as http:
        while not leases(stack) - before:
            assert time.monotonic() < deadline, "Serve replaced nobody"
            generations.heartbeat(stack.engine, "elsewhere", ["g9"])
            answer = ask(http)
            if answer is not None:
                marked += 1
                assert answer["generation"] == live.generation_id
                assert answer["degraded"] == ["generation_behind"]
            time.sleep(0.5)
        assert marked > 0
        weights.write_bytes(whole)
        while (answer := ask(http)) is None or answer["generation"] != "g9":
            assert time.monotonic() < deadline, "nobody loaded what can be loaded now"
            time.sleep(0.5)
    generations.drop_replica(stack.engine, "elsewhere")
