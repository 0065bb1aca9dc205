"""A step that failed can be run again, and the night ends as if nothing had happened."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from ray_jobs.nightly.publish import publish
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.workspace import Workspace
from sql import generations
from sql.engine import read_snapshot
from sql.settings import StoreSettings
from tests.contract.store_builder import ENCODER, NOW_MS


@pytest.fixture
def night(engine: Engine, tmp_path: Path) -> Night:
    workspace = Workspace(tmp_path, "g1")
    workspace.make()
    generations.register(engine, "g1", encoder_id=ENCODER, catalog_seq=0, created_at_ms=NOW_MS)
    return Night(engine, StoreSettings(), NightSettings(), workspace, lambda: NOW_MS)


def state(night: Night) -> tuple[str, str | None]:
    with read_snapshot(night.engine) as conn:
        found = generations.get_generation(conn, "g1")
    assert found is not None
    return found.state, found.failed_reason


def broken(_: Night) -> Report:
    raise RuntimeError("the disk is full")


def test_a_failed_step_says_why_and_its_retry_can_be_sealed(night: Night) -> None:
    with pytest.raises(RuntimeError, match="disk"):
        run_step(night, "train", broken)
    assert state(night) == ("failed", "train: the disk is full")
    assert run_step(night, "train", lambda _: {"loss": 1.0})["loss"] == 1.0
    assert state(night) == ("building", None)
    generations.record_artifacts(night.engine, "g1", [generations.Artifact("a", "0" * 64, 1)])
    generations.seal(night.engine, "g1", manifest_digest="d", metrics={})
    assert state(night)[0] == "sealed"


def test_a_step_that_is_done_is_not_run_again(night: Night) -> None:
    run_step(night, "train", lambda _: {"loss": 1.0})
    assert run_step(night, "train", broken)["loss"] == 1.0


def test_a_publish_that_broke_off_after_the_flip_only_tidies(night: Night) -> None:
    generations.seal(night.engine, "g1", manifest_digest="d", metrics={})
    generations.flip(
        night.engine, "g1", expected_flip=0, who="n", why="n", hold=False, at_ms=NOW_MS
    )
    assert run_step(night, "publish", publish)["flip"] == 1
    assert state(night)[0] == "published"
    assert not night.workspace.work.exists()


def test_a_failure_that_the_registry_cannot_take_does_not_hide_its_reason(night: Night) -> None:
    generations.seal(night.engine, "g1", manifest_digest="d", metrics={})
    generations.flip(
        night.engine, "g1", expected_flip=0, who="n", why="n", hold=False, at_ms=NOW_MS
    )
    with pytest.raises(RuntimeError, match="disk"):
        run_step(night, "evaluate", broken)
    assert state(night) == ("published", None)
