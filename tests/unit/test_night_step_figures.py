"""How long a night's steps took outlives its work files, and a night that failed says as what."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from multiprocessing import get_context

import pytest

from infra.drills.local import LocalStore, local_store
from infra.drills.small_night import open_small_night
from ray_jobs.nightly.build import run_part
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.step_figures import PLAN, STEPS, of_night, shard_step
from ray_jobs.nightly.workspace import GateRefused, NightError, StepMissing
from sql import generations
from sql.engine import read_snapshot


@pytest.fixture
def store() -> Iterator[LocalStore]:
    with local_store(items=20, seed=1) as made:
        generations.register(made.engine, "n1", encoder_id="e", catalog_seq=1, created_at_ms=1)
        yield made


def metrics(store: LocalStore) -> Report:
    with read_snapshot(store.engine) as conn:
        found = generations.get_generation(conn, "n1")
    assert found is not None
    return dict(found.metrics)


def test_steps_before_the_seal_and_after_it_are_kept_with_their_rows(store: LocalStore) -> None:
    night = open_small_night(store, "n1")
    run_step(night, "export", lambda _: {"events": 7})
    run_step(night, "train", lambda _: {"windows": [3, 4]})
    steps = of_night(night.workspace)
    generations.seal(store.engine, "n1", manifest_digest="d", metrics={STEPS: steps})
    run_step(night, "publish", discard)
    kept = metrics(store)[STEPS]
    assert {step: told["rows"] for step, told in kept.items()} == {
        "export": 7,
        "train": 7,
        "publish": None,
    }
    assert all(told["seconds"] >= 0 for told in kept.values())
    assert not night.workspace.work.exists()


def test_steps_of_a_night_that_breaks_off_are_kept(store: LocalStore) -> None:
    def breaks(_: Night) -> Report:
        raise MemoryError("none is left")

    night = open_small_night(store, "n1")
    run_step(night, "export", lambda _: {"events": 7})
    assert metrics(store)[STEPS]["export"]["rows"] == 7, "while it goes on"
    run_step(night, PLAN, lambda _: {"items": 5, "shards": 1})
    run_step(night, shard_step(0), lambda _: {"shard_items": 5}, beside_others=True)
    with pytest.raises(MemoryError):
        run_step(night, "build", breaks)
    assert metrics(store)[STEPS].keys() == {"export", PLAN, "build_shard"}


def test_a_step_in_parts_takes_as_long_as_its_longest_part(store: LocalStore) -> None:
    night = open_small_night(store, "n1")
    run_step(night, "check", lambda _: {"check_volume": 1.0, "events": 9})
    run_step(night, PLAN, lambda _: {"items": 5, "shards": 2})
    for number, items in ((0, 3), (1, 2)):
        run_step(night, shard_step(number), lambda _, n=items: {"shard_items": n})
        report = night.workspace.require_report(shard_step(number))
        night.workspace.write_report(shard_step(number), {**report, "seconds": 10.0 + number})
    told = of_night(night.workspace)
    assert {step: each["rows"] for step, each in told.items()} == {
        "check": 9,
        "plan_shards": 5,
        "build_shard": 5,
    }
    assert told["build_shard"]["seconds"] == 11.0


def test_shards_that_one_job_made_are_its_own_time(store: LocalStore) -> None:
    night = open_small_night(store, "n1")
    run_part(night, PLAN, lambda _: {"items": 5, "shards": 1})
    night.workspace.write_report(shard_step(0), {"shard_items": 5})
    assert of_night(night.workspace).keys() == {"plan_shards"}


def discard(night: Night) -> Report:
    night.workspace.discard_work()
    return {}


def test_a_night_that_failed_says_as_what_and_when(store: LocalStore) -> None:
    def refuse(_: Night) -> Report:
        raise GateRefused("it is worse", hint="nothing")

    night = open_small_night(store, "n1")
    with pytest.raises(GateRefused):
        run_step(night, "publish", refuse)
    assert metrics(store)["failed_as"] == "GateRefused"
    assert metrics(store)["failed_at_ms"] > 0


@pytest.mark.parametrize("error", [GateRefused("it is worse", hint="look"), StepMissing("s", "g")])
def test_an_error_of_a_night_leaves_its_process_as_it_is(error: NightError) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        came = pool.submit(copy, error).result()
    assert (type(came), str(came), came.hint) == (type(error), str(error), error.hint)
