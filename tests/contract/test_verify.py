"""The check after a publish: what it finds broken is rolled back by itself, with hold."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from infra.drills.catalog import fill_catalog
from infra.drills.generation import make_generation
from ray_jobs.nightly import publish as publish_step
from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.rollback import rollback
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, run_step
from ray_jobs.nightly.verify import check_files, verify
from ray_jobs.nightly.workspace import NothingToDo, StageFailed, VerifyFailed, Workspace
from ray_jobs.shards.manifest import (
    MANIFEST_NAME,
    manifest_digest,
    open_manifest,
    write_manifest,
)
from sql import generations
from sql.engine import read_snapshot
from sql.errors import FlipLost
from sql.generations import LivePointer, clear_hold, get_generation, heartbeat, live_history
from sql.settings import StoreSettings
from tests.contract.store_builder import NOW_MS

ITEMS = 60


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.meanwhile: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.meanwhile()

    def now_ms(self) -> int:
        return NOW_MS + int(self.now_s * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def nights(engine: Engine, tmp_path: Path, clock: Clock) -> dict[str, Night]:
    """Two sealed generations and their nights."""
    fill_catalog(engine, ITEMS, np.random.default_rng(1), NOW_MS)
    made = {}
    for number, generation in enumerate(("g1", "g2")):
        make_generation(engine, tmp_path, generation, seed=number, at_ms=NOW_MS + number)
        made[generation] = Night(
            engine,
            StoreSettings(),
            NightSettings(),
            Workspace(tmp_path, generation),
            clock.now_ms,
            clock.sleep,
            lambda: clock.now_s,
            clock.now_ms,
        )
    return made


def flip(night: Night, to: str) -> LivePointer:
    pointer, _, _ = stage_and_flip(
        night.engine,
        to,
        settings=night.settings,
        who="test",
        why="test",
        hold=False,
        now_ms=night.now_ms,
        lease_now_ms=night.lease_now_ms,
        sleep=night.sleep,
        monotonic=night.monotonic,
    )
    return pointer


def history(night: Night) -> list[tuple[str, bool, str]]:
    with read_snapshot(night.engine) as conn:
        return [(f.generation_id, f.hold, f.who) for f in live_history(conn)]


def damage(night: Night, name: str) -> None:
    path = night.workspace.directory / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def broken(night: Night) -> str:
    """What is wrong with the night's generation, as the alert LiveBroken has it."""
    with read_snapshot(night.engine) as conn:
        found = get_generation(conn, night.generation_id)
    assert found is not None
    assert found.verified is not None
    return found.verified.broken or ""


def test_a_sound_generation_passes_with_and_without_replicas(nights: dict[str, Night]) -> None:
    night = nights["g1"]
    flip(night, "g1")
    assert verify(night)["replicas_ready"] == 0
    heartbeat(night.engine, "r1", ["g1"], night.now_ms())
    report = run_step(night, "verify", verify)
    assert (report["items"], report["replicas_ready"], report["flip"]) == (ITEMS, 1, 1)
    assert history(night) == [("g1", False, "test")]


@pytest.mark.parametrize("name", ["shards/0001.faiss", "weights.safetensors", "items.parquet"])
def test_a_file_damaged_after_staging_is_rolled_back_with_hold_once(
    nights: dict[str, Night], name: str
) -> None:
    night = nights["g2"]
    for generation in ("g1", "g2"):
        flip(night, generation)
    damage(night, name)
    for _ in range(2):  # the task is retried
        with pytest.raises(VerifyFailed, match="rolled back to g1"):
            run_step(night, "verify", verify)
    assert history(night) == [("g1", True, "night"), ("g2", False, "test"), ("g1", False, "test")]
    with read_snapshot(night.engine) as conn:
        why = live_history(conn, 1)[0].why
    assert why.startswith("verify: g2: ")
    assert name in why


def test_without_a_generation_before_the_failure_is_told_and_nothing_moves(
    nights: dict[str, Night],
) -> None:
    night = nights["g1"]
    flip(night, "g1")
    damage(night, "weights.safetensors")
    for _ in range(2):
        with pytest.raises(VerifyFailed, match="no generation before it"):
            verify(night)
    assert history(night) == [("g1", False, "test")]
    assert "weights.safetensors" in broken(night), "LiveBroken fires now, and not in an hour"


def test_what_cannot_be_rolled_back_is_told_as_broken(
    nights: dict[str, Night], clock: Clock
) -> None:
    night = nights["g2"]
    for generation in ("g1", "g2"):
        flip(night, generation)
    damage(night, "weights.safetensors")

    def beat() -> None:
        heartbeat(night.engine, "r1", ["g2"], clock.now_ms(), {"g1": "its disk is full"})

    beat()
    clock.meanwhile = beat
    with pytest.raises(VerifyFailed, match="could not be rolled back"):
        run_step(night, "verify", verify)
    assert history(night)[0] == ("g2", False, "test")
    assert "weights.safetensors" in broken(night)


def test_items_stored_under_other_weights_are_found_by_the_canaries(
    nights: dict[str, Night],
) -> None:
    """Each digest is right, and yet no item is where its text says."""
    directory = nights["g2"].workspace.directory
    manifest = open_manifest(directory)
    others = nights["g1"].workspace.directory / "weights.safetensors"
    shutil.copyfile(others, directory / "weights.safetensors")
    fields = manifest.model_dump(exclude={"files", "format_version", "metric"})
    (directory / MANIFEST_NAME).unlink()
    write_manifest(directory, **fields)
    with pytest.raises(Exception, match="is stored at cosine"):
        check_files(directory, manifest_digest(directory))


def test_a_replica_that_stays_behind_rolls_back_with_its_own_reason(
    nights: dict[str, Night], clock: Clock
) -> None:
    night = nights["g2"]
    for generation in ("g1", "g2"):
        flip(night, generation)

    def beat() -> None:
        heartbeat(night.engine, "r1", ["g2", "g1"], clock.now_ms())
        heartbeat(night.engine, "r2", ["g1"], clock.now_ms(), {"g2": "its disk is full"})

    beat()
    clock.meanwhile = beat
    with pytest.raises(VerifyFailed, match="1 of 2 replicas lack it: r2: its disk is full"):
        verify(night)
    assert clock.now_s > night.settings.verify_deadline_s
    assert history(night)[0] == ("g1", True, "night")


def test_a_replica_that_is_replaced_meanwhile_rolls_nothing_back(
    nights: dict[str, Night], clock: Clock
) -> None:
    night = nights["g2"]
    for generation in ("g1", "g2"):
        flip(night, generation)
    heartbeat(night.engine, "r2", ["g1"], clock.now_ms())

    def replaced() -> None:
        heartbeat(night.engine, "r3", ["g2"], clock.now_ms())

    clock.meanwhile = replaced
    assert verify(night)["replicas_ready"] == 1
    assert night.settings.lease_s <= clock.now_s < night.settings.verify_deadline_s
    assert history(night)[0] == ("g2", False, "test")


def test_who_moved_the_pointer_first_is_not_overruled(
    nights: dict[str, Night], clock: Clock
) -> None:
    night = nights["g2"]
    for generation in ("g1", "g2"):
        flip(night, generation)
    heartbeat(night.engine, "r1", ["g1"], clock.now_ms())

    def a_person_acts() -> None:
        clock.meanwhile = lambda: heartbeat(night.engine, "r1", ["g1"], clock.now_ms())
        flip(night, "g1")

    clock.meanwhile = a_person_acts
    with pytest.raises(VerifyFailed, match="could not be rolled back: live pointer is at flip 3"):
        verify(night)
    assert history(night)[0] == ("g1", False, "test")
    assert verify(night) == {"generation": "g2", "not_live_but": "g1"}


def test_what_no_replica_can_load_is_not_published_and_what_one_can_is_at_the_deadline(
    nights: dict[str, Night], clock: Clock
) -> None:
    night = nights["g2"]
    flip(night, "g1")
    ready = {"r1": ["g1"], "r2": ["g1"]}

    def beat() -> None:
        for replica, generations_ready in ready.items():
            heartbeat(night.engine, replica, generations_ready, clock.now_ms(), {"g2": "broken"})

    beat()
    clock.meanwhile = beat
    with pytest.raises(StageFailed, match="none of 2 replicas can answer from g2: r1: broken"):
        flip(night, "g2")
    assert history(night) == [("g1", False, "test")]
    ready["r1"] = ["g2", "g1"]
    before_s = clock.now_s
    flip(night, "g2")
    assert clock.now_s - before_s > night.settings.stage_deadline_s
    assert history(night)[0] == ("g2", False, "test")


def test_a_part_that_nobody_is_ready_with_is_not_left_out_of_the_lists(
    nights: dict[str, Night], clock: Clock
) -> None:
    night = nights["g2"]
    flip(night, "g1")
    whole = ["g2", "g1"]
    ready = {"host-1": whole, "shards0-a": whole, "shards1-a": ["g1"], "shards1-b": ["g1"]}

    def beat() -> None:
        for replica, generations_ready in ready.items():
            heartbeat(night.engine, replica, generations_ready, clock.now_ms(), {"g2": "broken"})

    beat()
    clock.meanwhile = beat
    with pytest.raises(StageFailed, match="none of 2 replicas can answer from g2: shards1-a: brok"):
        flip(night, "g2")
    assert history(night) == [("g1", False, "test")]
    ready["shards1-b"] = whole
    flip(night, "g2")
    assert history(night)[0] == ("g2", False, "test")


def test_a_hold_keeps_the_night_from_publishing_and_the_report_says_whose_it_is(
    nights: dict[str, Night], monkeypatch: pytest.MonkeyPatch
) -> None:
    night = nights["g2"]
    for generation in ("g1", "g2"):
        flip(night, generation)
    rollback(night.engine, None, who="ann", why="complaints")
    # Nerves: a second call must not bring the bad one back; the same words are a retry.
    assert rollback(night.engine, None, who="ann", why="complaints").generation_id == "g1"
    with pytest.raises(NothingToDo, match="ann rolled back to g1 already: complaints"):
        rollback(night.engine, None, who="bob", why="it was worse")
    make_generation(night.engine, night.workspace.root, "g3", seed=3, at_ms=NOW_MS + 3)
    third = replace(night, workspace=Workspace(night.workspace.root, "g3"))
    # The gate and the seal of a real night have tests of their own; g3 is sealed already.
    for name in ("write_generation_manifest", "check_gate", "seal"):
        monkeypatch.setattr(publish_step, name, lambda *_, **__: 1.0)
    report = run_step(third, "publish", publish_step.publish)
    assert (report["held_by"], report["held_because"]) == ("ann", "complaints")
    assert verify(third) == {"generation": "g3", "not_live_but": "g1"}
    with read_snapshot(night.engine) as conn:
        found = generations.get_generation(conn, "g3")
        live = generations.read_live(conn)
    assert found is not None
    assert live is not None
    assert (found.state, live.generation_id, live.hold) == ("sealed", "g1", True)
    clear_hold(night.engine, expected_flip=live.flip, who="ann", why="mended", at_ms=NOW_MS)
    assert publish_step.publish(third)["generation"] == "g3"


def test_a_rollback_decided_upon_an_older_flip_is_refused(nights: dict[str, Night]) -> None:
    night = nights["g2"]
    for generation in ("g1", "g2"):
        flip(night, generation)
    with pytest.raises(FlipLost):
        stage_and_flip(
            night.engine,
            "g1",
            settings=night.settings,
            who="night",
            why="w",
            hold=True,
            now_ms=night.now_ms,
            expected_flip=1,
        )
