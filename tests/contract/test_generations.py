"""Generations: the registry's states, the live pointer as a compare-and-set, hold and leases."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, update

from sql.engine import read_snapshot, write
from sql.errors import FlipLost, GenerationConflict, HoldSet, UnknownGeneration
from sql.generations import (
    Artifact,
    LivePointer,
    Replica,
    clear_hold,
    database_now_ms,
    drop_replica,
    fail,
    flip,
    fresh_replicas,
    get_generation,
    heartbeat,
    list_artifacts,
    list_generations,
    live_history,
    prune,
    read_live,
    record_artifacts,
    register,
    seal,
    stage,
)
from sql.ids import BadInput
from sql.live import LEASE_MS
from sql.tables import generations
from tests.contract.store_builder import ENCODER, NOW_MS, generation

WRITERS = 6
HOUR_MS = 3_600_000


def begin(engine: Engine, name: str = "g1") -> Any:
    return register(
        engine, name, encoder_id=ENCODER, catalog_seq=3, event_count=5, created_at_ms=NOW_MS
    )


def publish(engine: Engine, to: str, expected_flip: int, **more: Any) -> LivePointer:
    options = {"who": "night", "why": "gate passed", "hold": False, "at_ms": NOW_MS, **more}
    return flip(engine, to, expected_flip=expected_flip, **options)


def state(engine: Engine, name: str = "g1") -> str:
    with read_snapshot(engine) as conn:
        found = get_generation(conn, name)
    assert found is not None
    return found.state


def test_states_go_forward_and_each_step_may_be_run_again(engine: Engine) -> None:
    assert begin(engine).state == "building"
    record_artifacts(engine, "g1", [Artifact("old", "x", 1)])
    files = [Artifact("b", "sha-b", 2), Artifact("a", "sha-a", 2**40)]
    record_artifacts(engine, "g1", files)
    for _ in range(2):
        sealed = seal(engine, "g1", manifest_digest="m", metrics={"r": 0.5}, user_count=2)
        assert (sealed.state, sealed.metrics, sealed.manifest_digest) == ("sealed", {"r": 0.5}, "m")
        assert (sealed.event_count, sealed.user_count) == (5, 2)
        assert begin(engine) == sealed
    for _ in range(2):
        assert stage(engine, "g1").state == "staged"
    publish(engine, "g1", 0)
    assert (state(engine), stage(engine, "g1").state) == ("published", "published")
    with read_snapshot(engine) as conn:
        assert list_artifacts(conn, "g1") == sorted(files)
        assert get_generation(conn, "nothing") is None


def test_steps_out_of_order_are_refused(engine: Engine) -> None:
    begin(engine)
    steps: list[Callable[[], object]] = [
        lambda: stage(engine, "g1"),
        lambda: publish(engine, "g1", 0),
    ]
    for step in steps:
        with pytest.raises(GenerationConflict):
            step()
    seal(engine, "g1", manifest_digest="m", metrics={})
    with pytest.raises(GenerationConflict):
        seal(engine, "g1", manifest_digest="other", metrics={})
    with pytest.raises(GenerationConflict):
        record_artifacts(engine, "g1", [])
    for step in (lambda: stage(engine, "g9"), lambda: publish(engine, "g9", 0)):
        with pytest.raises(UnknownGeneration):
            step()
    with read_snapshot(engine) as conn:
        assert read_live(conn) is None


def test_failed_generation_can_be_built_again_but_not_published(engine: Engine) -> None:
    generation(engine, "g1")
    assert fail(engine, "g1", "gate: recall fell").failed_reason == "gate: recall fell"
    with pytest.raises(GenerationConflict):
        publish(engine, "g1", 0)
    again = begin(engine)
    assert (again.state, again.failed_reason, again.manifest_digest) == ("building", None, None)


def test_published_generation_cannot_fail_and_the_live_one_cannot_be_pruned(
    engine: Engine,
) -> None:
    for name in ("g1", "g2"):
        generation(engine, name)
    publish(engine, "g1", 0)
    with pytest.raises(GenerationConflict):
        fail(engine, "g1", "late")
    with pytest.raises(GenerationConflict):
        prune(engine, "g1")
    publish(engine, "g2", 1)
    assert prune(engine, "g1").state == prune(engine, "g1").state == "pruned"
    with pytest.raises(GenerationConflict):
        publish(engine, "g1", 2)


def test_what_is_pruned_leaves_no_rows_of_its_files(engine: Engine) -> None:
    for name in ("g1", "g2", "g3"):
        begin(engine, name)
        record_artifacts(engine, name, [Artifact("a", "sha", 1), Artifact("b", "sha", 1)])
        seal(engine, name, manifest_digest="m", metrics={})
    with write(engine) as conn:  # as a version did that left the rows
        conn.execute(update(generations).filter_by(generation_id="g1").values(state="pruned"))
    publish(engine, "g3", 0)
    prune(engine, "g2")
    with pytest.raises(GenerationConflict):
        prune(engine, "g3")
    with read_snapshot(engine) as conn:
        files = {name: len(list_artifacts(conn, name)) for name in ("g1", "g2", "g3")}
    assert files == {"g1": 0, "g2": 0, "g3": 2}


def test_generations_are_listed_newest_first(engine: Engine) -> None:
    for n, name in enumerate(["g2", "g1", "g3"]):
        generation(engine, name, created_at_ms=n)
    with read_snapshot(engine) as conn:
        assert [g.generation_id for g in list_generations(conn)] == ["g3", "g1", "g2"]
        assert len(list_generations(conn, 2)) == 2


def test_pointer_is_the_last_flip_and_its_history_stays(engine: Engine) -> None:
    for name in ("g1", "g2"):
        generation(engine, name)
    first = publish(engine, "g1", 0)
    second = publish(engine, "g2", 1)
    back = publish(engine, "g1", 2, who="anna", why="worse")
    assert [p.previous for p in (first, second, back)] == [None, "g1", "g2"]
    with read_snapshot(engine) as conn:
        assert read_live(conn) == back == LivePointer(3, "g1", "g2", "anna", "worse", NOW_MS, False)
        assert live_history(conn) == [back, second, first]
    assert publish(engine, "g1", 3) == back  # a retry is no flip


@pytest.mark.parametrize("expected_flip", [0, 2])
def test_flip_from_another_place_is_lost(engine: Engine, expected_flip: int) -> None:
    for name in ("g1", "g2"):
        generation(engine, name)
    publish(engine, "g1", 0)
    with pytest.raises(FlipLost) as lost:
        publish(engine, "g2", expected_flip)
    assert (lost.value.expected, lost.value.actual) == (expected_flip, 1)
    assert state(engine, "g2") == "staged"


@pytest.mark.parametrize("same", [True, False])
def test_of_writers_that_flip_at_once_one_wins(engine: Engine, same: bool) -> None:
    names = [f"g{n}" for n in range(1 if same else WRITERS)]
    for name in names:
        generation(engine, name)
    together = Barrier(WRITERS)

    def race(n: int) -> LivePointer | None:
        together.wait(30)
        try:
            return publish(engine, names[n % len(names)], 0, who=f"w{n}")
        except FlipLost:
            return None

    with ThreadPoolExecutor(WRITERS) as pool:
        won = [pointer for pointer in pool.map(race, range(WRITERS)) if pointer]
    with read_snapshot(engine) as conn:
        assert live_history(conn) == won
        states = [g.state for g in list_generations(conn)]
    assert states.count("published") == 1


def test_hold_lets_nothing_through_but_a_person(engine: Engine) -> None:
    for name in ("g1", "g2", "g3"):
        generation(engine, name)
    publish(engine, "g1", 0)
    publish(engine, "g2", 1)
    publish(engine, "g1", 2, hold=True, who="check", why="errors")
    with pytest.raises(HoldSet) as held:
        publish(engine, "g3", 3)
    assert (held.value.generation_id, held.value.who, held.value.why) == ("g1", "check", "errors")
    with pytest.raises(HoldSet):
        publish(engine, "g1", 3)  # would clear the hold by the way
    assert publish(engine, "g3", 3, override=True).generation_id == "g3"


def test_hold_is_cleared_by_a_flip_of_its_own(engine: Engine) -> None:
    for name in ("g1", "g2"):
        generation(engine, name)
    with pytest.raises(BadInput):
        clear_hold(engine, expected_flip=0, who="anna", why="ok", at_ms=NOW_MS)
    publish(engine, "g1", 0)
    publish(engine, "g1", 1, hold=True)
    with pytest.raises(FlipLost):
        clear_hold(engine, expected_flip=1, who="anna", why="ok", at_ms=NOW_MS)
    cleared = clear_hold(engine, expected_flip=2, who="anna", why="ok", at_ms=NOW_MS)
    assert (cleared.flip, cleared.generation_id, cleared.hold) == (3, "g1", False)
    assert clear_hold(engine, expected_flip=3, who="b", why="c", at_ms=NOW_MS) == cleared
    assert publish(engine, "g2", 3).previous == "g1"


def test_leases_rest_on_the_clock_of_the_database(engine: Engine) -> None:
    heartbeat(engine, "ours", ["g1"])
    heartbeat(engine, "an hour ahead", ["g1"], time.time_ns() // 1_000_000 + HOUR_MS)
    heartbeat(engine, "an hour behind", ["g1"], time.time_ns() // 1_000_000 - HOUR_MS)
    with read_snapshot(engine) as conn:
        (lease,) = fresh_replicas(conn)
        assert lease.replica_id == "ours"
        assert 0 <= database_now_ms(conn) - lease.at_ms < LEASE_MS


def test_leases(engine: Engine) -> None:
    heartbeat(engine, "r2", ["g2", "g1"], 1_000)
    heartbeat(engine, "r1", [], 1_500)
    heartbeat(engine, "r1", ["g2"], 2_000)
    with read_snapshot(engine) as conn:
        assert fresh_replicas(conn, 2_000, 1_001) == [
            Replica("r1", ("g2",), 2_000),
            Replica("r2", ("g2", "g1"), 1_000),
        ]
        assert [r.replica_id for r in fresh_replicas(conn, 2_000, 1_000)] == ["r1"]
        # Renewed in the future: the database's clock was set back since, nobody knows by how long.
        assert fresh_replicas(conn, 2_000 - HOUR_MS) == []
    drop_replica(engine, "r1")
    drop_replica(engine, "r1")
    with read_snapshot(engine) as conn:
        assert [r.replica_id for r in fresh_replicas(conn, 2_000, 10_000)] == ["r2"]
