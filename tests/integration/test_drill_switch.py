"""Promises 4, 5 and 9 on a real stack: the drill `switch` in short, and a replica taken out."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from infra.drills.figures import Options
from infra.drills.night_worker import make
from infra.drills.stack import DrillStack, drill_stack, now_ms
from infra.drills.switch import run_on
from sql import generations
from sql.engine import read_snapshot

ITEMS = 300
USERS = 400
LEASE_MS = 5_000
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def stack() -> Iterator[DrillStack]:
    """Two replicas that look often, so that nothing here takes long."""
    look_often = {"MOONLARK_WATCH_INTERVAL_S": "0.1"}
    with drill_stack(items=ITEMS, users=USERS, seed=3, env=look_often) as made:
        yield made


@pytest.mark.timeout(600)
def test_a_publish_a_switch_back_and_a_rollback_with_hold_break_no_promise(
    stack: DrillStack,
) -> None:
    figures = run_on(stack, Options(rounds=3, seed=3, progress=False), items=ITEMS)
    assert figures.passed, figures.document()
    assert figures.acked > 50
    assert figures.more["answers"] > 50
    assert figures.more["generations_that_answered"] == 2
    assert figures.parity_max_abs_diff is not None
    assert figures.parity_max_abs_diff < 1e-5


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
        found = generations.fresh_replicas(conn, now_ms(), LEASE_MS)
    return {replica.replica_id for replica in found} - {"elsewhere"}


@pytest.mark.timeout(600)
def test_replicas_that_stay_behind_another_are_replaced_and_answer_marked_until_then(
    stack: DrillStack,
) -> None:
    stack.night.submit(make, stack.database_url, stack.root, "g9", 9).result()
    weights = stack.root / "generations" / "g9" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    generations.heartbeat(stack.engine, "elsewhere", ["g9"], now_ms() + HOUR_MS)
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
