"""A step that failed can be run again, and the night ends as if nothing had happened."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from infra.cli import night as night_command
from infra.cli.night_steps import STEPS, run_night, steps_left
from ray_jobs.encoders.item_text import text_digest
from ray_jobs.nightly import step as step_module
from ray_jobs.nightly.broke_off import broke_off
from ray_jobs.nightly.embed_missing import reused_vectors
from ray_jobs.nightly.export import export
from ray_jobs.nightly.infrastructure import TRY_AGAIN_EXIT_CODE
from ray_jobs.nightly.prune import mark_abandoned, prune
from ray_jobs.nightly.publish import publish
from ray_jobs.nightly.seal import write_generation_manifest
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, run_job, run_step
from ray_jobs.nightly.work_files import in_use
from ray_jobs.nightly.workspace import NothingToDo, Workspace
from ray_jobs.shards.errors import CorruptArtifact
from ray_jobs.shards.manifest import verify, write_manifest
from ray_jobs.shards.texts import VECTORS_NAME, write_text_vectors
from serve.metric_names import NIGHTS_FAILED
from serve.readings import of_the_registry
from sql import generations
from sql.engine import read_snapshot
from sql.generations import REBUILDS, WATERMARK
from sql.settings import StoreSettings
from tests.contract.store_builder import ENCODER, NOW_MS
from tests.unit.shards_builder import write_generation


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


def unfinished(night: Night) -> generations.Unfinished | None:
    with read_snapshot(night.engine) as conn:
        found = generations.get_generation(conn, "g1")
    assert found is not None
    return found.unfinished


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


def away(_: Night) -> Report:
    raise ConnectionError("the store is away")


def nights_failed(night: Night) -> float:
    """What the alerts count."""
    with read_snapshot(night.engine) as conn:
        readings = of_the_registry(None, generations.list_generations(conn), [], NOW_MS)
        return sum(value for name, value, _ in readings if name == NIGHTS_FAILED)


def test_what_airflow_tries_again_fails_no_generation_until_its_run_has_failed(
    night: Night,
) -> None:
    with pytest.raises(ConnectionError):
        run_step(night, "train", away, is_retried=True)
    assert state(night) == ("building", "train: the store is away")
    assert nights_failed(night) == 0
    run_step(night, "train", lambda _: {"loss": 1.0}, is_retried=True)
    assert state(night) == ("building", None)
    with pytest.raises(ConnectionError):
        run_step(night, "fuse", away, is_retried=True)
    broke_off(night, "its run failed")
    reason = "its run failed; its last try: fuse: the store is away"
    assert state(night) == ("failed", reason)
    assert nights_failed(night) == 1


def test_what_would_fail_again_and_a_night_by_hand_are_told_at_once(night: Night) -> None:
    with pytest.raises(RuntimeError, match="disk"):
        run_step(night, "train", broken, is_retried=True)
    assert state(night) == ("failed", "train: the disk is full")
    with pytest.raises(ConnectionError):
        run_step(night, "build_shard-0001", away, beside_others=True, is_retried=True)
    assert state(night) == ("failed", "train: the disk is full"), "the worse one stays"
    with pytest.raises(ConnectionError):
        run_step(night, "train", away)
    assert state(night) == ("failed", "train: the store is away")


def test_a_publish_that_is_tried_again_stays_sealed(night: Night) -> None:
    generations.seal(night.engine, "g1", manifest_digest="d", metrics={})
    with pytest.raises(ConnectionError):
        run_step(night, "publish", away, is_retried=True)
    assert state(night) == ("sealed", "publish: the store is away")
    run_step(night, "publish", lambda _: {}, is_retried=True)
    assert state(night) == ("sealed", None)


def test_a_job_of_the_night_is_one_that_is_tried_again(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "open_night", lambda _: night)
    with pytest.raises(SystemExit) as ended:
        run_job("train", away, "g1", niced=False)
    assert ended.value.code == TRY_AGAIN_EXIT_CODE
    assert state(night) == ("building", "train: the store is away")


def test_what_fails_after_the_publish_leaves_the_generation_as_it_is(night: Night) -> None:
    generations.record_artifacts(night.engine, "g1", [generations.Artifact("a", "0" * 64, 1)])
    generations.seal(night.engine, "g1", manifest_digest="d", metrics={})
    for name in ("verify", "parity"):
        with pytest.raises(RuntimeError, match="disk"):
            run_step(night, name, broken)
        assert state(night) == ("sealed", None), "a person may still publish it"
        assert unfinished(night) == (name, "the disk is full", NOW_MS, False)
    assert nights_failed(night) == 1
    run_step(night, "verify", lambda _: {})
    assert nights_failed(night) == 1, "parity is not done yet"
    run_step(night, "parity", lambda _: {})
    assert unfinished(night) is None
    assert nights_failed(night) == 0


def test_after_the_publish_what_airflow_tries_again_is_told_when_its_run_has_failed(
    night: Night,
) -> None:
    generations.seal(night.engine, "g1", manifest_digest="d", metrics={})
    generations.flip(
        night.engine, "g1", expected_flip=0, who="n", why="n", hold=False, at_ms=NOW_MS
    )
    with pytest.raises(ConnectionError):
        run_step(night, "verify", away, is_retried=True)
    assert unfinished(night) == ("verify", "the store is away", NOW_MS, True)
    run_step(night, "verify", lambda _: {}, is_retried=True)
    assert unfinished(night) is None
    with pytest.raises(ConnectionError):
        run_step(night, "parity", away, is_retried=True)
    broke_off(night, "its run failed")
    reason = "its run failed; its last try: the store is away"
    assert unfinished(night) == ("parity", reason, NOW_MS, False)
    run_step(night, "parity", lambda _: {})
    assert unfinished(night) is None


def test_a_step_after_the_publish_that_finds_its_report_is_done(night: Night) -> None:
    generations.seal(night.engine, "g1", manifest_digest="d", metrics={})
    run_step(night, "verify", lambda _: {})
    left = generations.Unfinished("verify", "killed before its figures were kept", NOW_MS)
    generations.keep_unfinished(night.engine, "g1", left)
    run_step(night, "verify", broken)
    assert unfinished(night) is None


def test_a_shard_that_begins_does_not_hide_that_another_one_failed(night: Night) -> None:
    with pytest.raises(RuntimeError, match="disk"):
        run_step(night, "build_shard-0000", broken, beside_others=True)
    run_step(night, "build_shard-0001", lambda _: {"shard_items": 1}, beside_others=True)
    assert state(night) == ("failed", "build_shard-0000: the disk is full")
    run_step(night, "build", lambda _: {"items": 1})
    assert state(night) == ("building", None)


def test_a_try_that_finds_its_step_done_goes_on_with_the_night(night: Night) -> None:
    run_step(night, "train", lambda _: {"loss": 1.0})
    generations.fail(night.engine, "g1", "train: its figures were not kept")
    run_step(night, "train", broken)
    assert state(night) == ("building", None)


def test_a_night_that_broke_off_without_a_word_is_failed_and_may_still_go_on(night: Night) -> None:
    day_ms = 86_400_000
    later = replace(night, now_ms=lambda: NOW_MS + day_ms + 1)
    with in_use(night.workspace.work):  # slow, but alive
        assert mark_abandoned(later) == []
    assert mark_abandoned(night) == [], "its time is not over"
    assert mark_abandoned(later) == ["g1"]
    assert state(night)[0] == "failed"
    run_step(night, "train", lambda _: {"loss": 1.0})
    assert state(night) == ("building", None)
    much_later = replace(night, now_ms=lambda: NOW_MS + 9 * day_ms)
    assert prune(much_later) == ["g1"]
    assert state(night)[0] == "pruned"
    assert not night.workspace.work.exists()
    assert not night.workspace.directory.exists()


def test_past_nights_made_again_push_out_no_night_that_one_can_go_back_to(night: Night) -> None:
    for number in range(2, 8):
        name, engine = f"g{number}", night.engine
        registered = {"encoder_id": ENCODER, "catalog_seq": 0, "created_at_ms": NOW_MS + number}
        generations.register(engine, name, **registered)
        rebuild = {WATERMARK: {"as_of_ms": 1, **({REBUILDS: "g2"} if number > 3 else {})}}
        generations.record_artifacts(engine, name, [generations.Artifact("a", "0" * 64, 1)])
        generations.seal(engine, name, manifest_digest="d", metrics=rebuild)
    few = replace(night, settings=NightSettings(keep_generations=2))
    assert sorted(prune(few)) == ["g4", "g5"], "two nights and two rebuilds are kept"


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


def test_a_finished_generation_is_not_made_again_under_its_replicas(night: Night) -> None:
    generations.seal(night.engine, "g1", manifest_digest="d", metrics={})
    generations.flip(
        night.engine, "g1", expected_flip=0, who="n", why="n", hold=False, at_ms=NOW_MS
    )
    night.workspace.discard_work()  # as publish does
    with pytest.raises(NothingToDo, match="published already"):
        run_step(night, "export", export)
    assert state(night) == ("published", None)
    assert not night.workspace.events.exists()


def test_the_help_of_the_night_names_every_step() -> None:
    help_text = " ".join(str(night_command.command.__doc__).split())
    assert f"The steps are {', '.join(STEPS)}, as in the DAG" in help_text


def test_a_night_that_is_taken_up_after_its_publish_goes_on_with_the_checks(
    night: Night, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert steps_left(night) == list(STEPS)
    generations.seal(night.engine, "g1", manifest_digest="d", metrics={})
    generations.flip(
        night.engine, "g1", expected_flip=0, who="n", why="n", hold=False, at_ms=NOW_MS
    )
    night.workspace.discard_work()  # as publish does
    assert steps_left(night) == ["verify", "parity", "prune"]
    for name, left in (("verify", ["parity", "prune"]), ("parity", ["prune"]), ("prune", [])):
        run_step(night, name, lambda _: {})
        assert steps_left(night) == left
    monkeypatch.setattr("infra.cli.night_steps.open_night", lambda _: night)
    monkeypatch.setattr("ray.init", None)  # nothing is left: no step is run
    run_night("g1")
    assert "nothing is left" in capsys.readouterr().out


def a_generation(directory: Path, vector: list[float]) -> str:
    """One item's generation on disk; returns the digest of its text."""
    digest, ordinals = text_digest("a text"), np.array([1], np.int64)
    written = write_generation(directory, np.eye(1, 4, dtype=np.float32), ordinals)
    write_text_vectors(directory, [digest], np.array([vector], np.float32))
    fields = written.model_dump(exclude={"format_version", "metric", "files"})
    write_manifest(directory, **fields)
    return digest


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_retry_finds_a_damaged_file_and_does_not_digest_it_anew(night: Night) -> None:
    directory = night.workspace.directory
    a_generation(directory, [1.0, 0.0])
    flip_a_bit(directory / "weights.safetensors")
    with pytest.raises(CorruptArtifact, match="weights"):
        verify(directory, write_generation_manifest(night))


def test_no_vector_is_taken_from_a_generation_that_did_not_pass_or_whose_bytes_are_wrong(
    night: Night, tmp_path: Path
) -> None:
    before = tmp_path / "generations" / "g0"
    digest = a_generation(before, [0.5, 0.25])
    generations.register(
        night.engine, "g0", encoder_id=ENCODER, catalog_seq=0, created_at_ms=NOW_MS - 1
    )
    _, has_N = reused_vectors(night, ENCODER, [digest], 2)
    assert has_N.tolist() == [False]  # not past its gate
    generations.seal(night.engine, "g0", manifest_digest="d", metrics={})
    vectors_ND, has_N = reused_vectors(night, ENCODER, [digest], 2)
    assert has_N.tolist() == [True]
    assert vectors_ND.tolist() == [[0.5, 0.25]]
    flip_a_bit(before / VECTORS_NAME)
    vectors_ND, has_N = reused_vectors(night, ENCODER, [digest], 2)
    assert has_N.tolist() == [False]
    assert vectors_ND.tolist() == [[0.0, 0.0]]
