"""Two nights at once never both publish, whoever started them; and one may not publish at all."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from ray_jobs.nightly import publish as publish_module
from ray_jobs.nightly.publish import publish
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report
from ray_jobs.nightly.workspace import Workspace
from sql import generations
from sql.engine import read_snapshot
from sql.settings import StoreSettings
from tests.contract.store_builder import ENCODER, NOW_MS


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate and the seal of files have tests of their own."""

    def seal(night: Night, *_: Any, **__: Any) -> None:
        generations.seal(night.engine, night.generation_id, manifest_digest="d", metrics={})

    monkeypatch.setattr(publish_module, "write_generation_manifest", lambda night: None)
    monkeypatch.setattr(publish_module, "check_gate", lambda night: 1.0)
    monkeypatch.setattr(publish_module, "seal", seal)


def ready_to_publish(engine: Engine, root: Path, name: str, live: str | None) -> Night:
    workspace = Workspace(root, name)
    workspace.make()
    generations.register(engine, name, encoder_id=ENCODER, catalog_seq=0, created_at_ms=NOW_MS)
    workspace.write_report("export", {"live_generation": live})
    return Night(engine, StoreSettings(), NightSettings(), workspace, lambda: NOW_MS)


def live_now(engine: Engine) -> generations.LivePointer | None:
    with read_snapshot(engine) as conn:
        return generations.read_live(conn)


def test_of_two_that_publish_at_the_same_moment_one_does(engine: Engine, tmp_path: Path) -> None:
    nights = [ready_to_publish(engine, tmp_path, f"g{n}", None) for n in range(2)]
    start = threading.Barrier(2)
    reports: list[Report] = []

    def race(night: Night) -> None:
        start.wait(timeout=30)
        reports.append(publish(night))

    threads = [threading.Thread(target=race, args=[night]) for night in nights]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted("overtaken_by" in report for report in reports) == [False, True]
    pointer = live_now(engine)
    assert pointer is not None
    assert pointer.flip == 1
    assert {report["generation"] for report in reports} == {pointer.generation_id}
    with read_snapshot(engine) as conn:
        states = [found.state for found in generations.list_generations(conn)]
    assert sorted(states) == ["published", "sealed"], "replicas need not hold what lost"


def test_a_night_that_another_one_overtook_is_sealed_and_no_more(
    engine: Engine, tmp_path: Path
) -> None:
    late = ready_to_publish(engine, tmp_path, "late", None)
    publish(ready_to_publish(engine, tmp_path, "early", None))
    assert publish(late) == {"generation": "early", "overtaken_by": "night"}
    with read_snapshot(engine) as conn:
        found = generations.get_generation(conn, "late")
    assert found is not None
    assert found.state == "sealed", "a person may still publish it"
    # The next night began after it and goes on as ever.
    assert publish(ready_to_publish(engine, tmp_path, "next", "early"))["flip"] == 2


def test_a_night_that_is_not_to_publish_seals(engine: Engine, tmp_path: Path) -> None:
    night = ready_to_publish(engine, tmp_path, "g1", None)
    report = publish(replace(night, settings=NightSettings(publish=False)))
    assert report == {"generation": None, "published": False}
    assert live_now(engine) is None
