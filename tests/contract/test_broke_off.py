"""A night that was killed is failed when its run is, unless something was made of it already."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from ray_jobs.nightly.broke_off import broke_off
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, run_step
from ray_jobs.nightly.step_figures import STEPS
from ray_jobs.nightly.work_files import in_use
from ray_jobs.nightly.workspace import Workspace
from sql import generations
from sql.engine import read_snapshot
from sql.generations import Generation
from sql.settings import StoreSettings
from tests.contract.store_builder import ENCODER, NOW_MS

LATER_MS = NOW_MS + 3_600_000


@pytest.fixture
def night(engine: Engine, tmp_path: Path) -> Night:
    generations.register(engine, "g1", encoder_id=ENCODER, catalog_seq=0, created_at_ms=NOW_MS)
    workspace = Workspace(tmp_path, "g1")
    workspace.make()
    told = (StoreSettings(), NightSettings(), workspace, lambda: LATER_MS, lambda _: None)
    return Night(engine, *told)


def found(night: Night) -> Generation:
    with read_snapshot(night.engine) as conn:
        generation = generations.get_generation(conn, night.generation_id)
    assert generation is not None
    return generation


def sealed(night: Night, *steps: str) -> None:
    generations.record_artifacts(night.engine, "g1", [generations.Artifact("a", "0" * 64, 1)])
    done = {step: {"seconds": 1.0, "rows": None} for step in steps}
    generations.seal(night.engine, "g1", manifest_digest="d", metrics={STEPS: done})


def test_what_was_building_is_failed_with_why_and_when(night: Night) -> None:
    assert broke_off(night, "timed out")["failed"] is True
    assert (found(night).state, found(night).failed_reason) == ("failed", "timed out")
    assert found(night).metrics["failed_at_ms"] == LATER_MS


def test_a_night_that_was_killed_before_it_left_a_row_is_told(night: Night, tmp_path: Path) -> None:
    unknown = replace(night, workspace=Workspace(tmp_path, "g2"))
    assert broke_off(unknown, "mistyped", is_owed=False)["failed"] is False
    with read_snapshot(night.engine) as conn:
        assert generations.get_generation(conn, "g2") is None
    assert broke_off(unknown, "killed")["failed"] is True
    assert found(unknown).state == "failed"


@pytest.mark.parametrize("is_staged", [False, True])
def test_killed_amid_its_publish_it_is_failed(night: Night, is_staged: bool) -> None:
    sealed(night, "export")
    if is_staged:
        generations.stage(night.engine, "g1")
    assert broke_off(night, "killed")["failed"] is True
    assert found(night).state == "failed"


def test_what_its_publish_put_aside_stays_sealed_and_is_unfinished(night: Night) -> None:
    sealed(night, "export", "publish", "verify")
    assert broke_off(night, "killed")["failed"] is False
    assert found(night).state == "sealed"
    assert found(night).unfinished == ("parity", "killed", LATER_MS, False)


def test_a_run_that_failed_when_all_was_done_leaves_nothing_unfinished(night: Night) -> None:
    sealed(night, "export", "publish", "verify", "parity", "prune")
    assert broke_off(night, "killed")["unfinished"] is None
    assert found(night).unfinished is None


def test_what_is_live_stays_published(night: Night) -> None:
    sealed(night, "export")
    generations.flip(
        night.engine, "g1", expected_flip=0, who="n", why="n", hold=False, at_ms=NOW_MS
    )
    assert broke_off(night, "killed")["failed"] is False
    assert found(night).state == "published"
    assert found(night).unfinished == ("verify", "killed", LATER_MS, False)
    said = generations.Unfinished("verify", "a bad byte", NOW_MS)
    generations.keep_unfinished(night.engine, "g1", said)
    broke_off(night, "its run failed")
    assert found(night).unfinished == said, "what a step said of itself"


def test_the_reason_that_a_step_gave_stays(night: Night) -> None:
    generations.fail(night.engine, "g1", "train: out of memory")
    assert broke_off(night, "its run failed")["failed"] is False
    assert found(night).failed_reason == "train: out of memory"


def test_one_that_was_taken_up_again_goes_on(night: Night) -> None:
    with in_use(night.workspace.work):
        assert broke_off(night, "its run failed")["failed"] is False
    assert found(night).state == "building"


def test_each_step_says_when_it_began_and_ended(night: Night) -> None:
    assert found(night).reported_at_ms == NOW_MS
    run_step(night, "train", lambda _: {"loss": 1.0})
    assert found(night).reported_at_ms == LATER_MS
    stands_still = replace(night, now_ms=lambda: LATER_MS + 7)

    def look(_: Night) -> dict[str, int]:
        return {"began_ms": found(night).reported_at_ms}

    assert run_step(stands_still, "fuse", look)["began_ms"] == LATER_MS + 7
    sealed(night)
    run_step(replace(night, now_ms=lambda: 1), "publish", lambda _: {})
    assert "reported_at_ms" not in found(night).metrics
