"""Erasure reaches every copy: canary strings in everything a user can send, and a scan that must
find them before and nowhere after."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from infra.cli.erase_scan import files_of, scan_database, scan_files
from ray_jobs.nightly.erase_users import finish_erasures
from ray_jobs.nightly.event_vectors import EventVectors, write_event_vectors
from ray_jobs.nightly.export import export
from ray_jobs.nightly.histories import pq
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, run_step
from ray_jobs.nightly.work_files import discard_old_work, in_use
from ray_jobs.nightly.workspace import Workspace
from serve.day import Day
from serve.gateway import build_api
from serve.settings import ServeSettings
from sql import generations
from sql.engine import read_snapshot
from sql.events import find_user
from sql.settings import StoreSettings
from tests.integration.http.conftest import TEXT_DIM, Stack

CANARY = "canary-7f3a"
USER = f"{CANARY}-user é"
URL = f"/v1/users/{USER}"
LATER_MS = 4_000_000_000_000
"""When nights begin here: after the users were made."""
AT = "2026-01-01T00:00:00Z"


def scanned(stack: Stack) -> list[str]:
    files = files_of(stack.engine, stack.root, stack.root / "no-state", None)
    return [*scan_database(stack.engine, [CANARY]), *scan_files(files, [CANARY])]


def live_of_canary(stack: Stack) -> None:
    """Everything that a user can send or be shown, and one neighbour."""
    common = {"user_id": USER, "occurred_at": AT}
    events: list[dict[str, Any]] = [
        {"kind": "click", "item_id": "i1", "surface": f"{CANARY}-s", "request_id": f"{CANARY}-r"},
        {"kind": "search", "text": f"{CANARY} space battle"},
        {"kind": "comment", "item_id": "i2", "text": f"{CANARY} fine soup"},
        {"kind": "hide", "item_id": "i3"},
        {"kind": "undo", "undoes": f"{CANARY}-3"},
    ]
    body = [{**common, "event_id": f"{CANARY}-{n}", **event} for n, event in enumerate(events)]
    assert stack.replicas[0].post("/v1/events", json={"events": body}).status_code == 200
    neighbour = {"user_id": "stays", "kind": "search", "text": "a rose"}
    assert stack.replicas[0].post("/v1/events", json=neighbour).status_code == 200
    for replica in stack.replicas:
        for user in (USER, "stays"):
            path = "/v1/recommendations"
            asked = {"users": [user], "exclude": [f"{CANARY}-item"] if user == USER else []}
            assert replica.post(path, json=asked).status_code == 200
        day_of(replica).write_behind.flush()


def day_of(replica: TestClient) -> Day:
    day: Day = replica.app.state.day  # type: ignore[attr-defined]
    return day


def key_of(stack: Stack, user_id: str) -> int:
    with read_snapshot(stack.engine) as conn:
        user = find_user(conn, user_id)
    assert user is not None
    return user.user_key


def night_of(stack: Stack, generation_id: str, now_ms: int = LATER_MS) -> Night:
    """A night that has come as far as its texts."""
    store = StoreSettings(database_url=str(stack.engine.url), artifact_root=stack.root)
    workspace = Workspace(stack.root, generation_id)
    night = Night(stack.engine, store, NightSettings(), workspace, lambda: now_ms)
    run_step(night, "export", export)
    keys = [(key_of(stack, user), 2 if user == USER else 1) for user in (USER, "stays")]
    write_event_vectors(workspace.work, {k: np.ones(TEXT_DIM, np.float32) for k in keys}, TEXT_DIM)
    workspace.write_report("embed", {})
    return night


@pytest.fixture
def lived(stack: Stack) -> Stack:
    live_of_canary(stack)
    return stack


def test_erasure_reaches_every_copy(lived: Stack, caplog: pytest.LogCaptureFixture) -> None:
    stack, (first, second) = lived, lived.replicas
    going_on, failed = night_of(stack, "night-1"), night_of(stack, "night-2")
    generations.fail(stack.engine, "night-2", "the gate said no")
    user_key, neighbour = key_of(stack, USER), key_of(stack, "stays")
    before = scanned(stack)
    columns = {"users.user_id", "events.event_id", "events.text", "events.surface"}
    columns |= {"events.request_id", "exposures.params"}
    assert columns <= {place.split(":")[0] for place in before}
    for path in (going_on.workspace.events, failed.workspace.events):
        assert str(path) in before
    assert {f"{stack.root}/moonlark.db", f"{stack.root}/moonlark.db-wal"} & set(before)

    receipt = first.delete(URL).json()

    assert receipt["erased"]["events"] == 5
    assert receipt["erased"]["exposures"] == 2
    assert (receipt["completed_at"], len(receipt["to_rewrite"])) == (None, 2)
    assert sorted(receipt["generations"]) == ["night-1", "night-2"]
    assert list(scan_database(stack.engine, [CANARY])) == []
    assert day_of(first).forgetting._cache.of_user(USER, ["g1"]) == {}
    assert day_of(second).forgetting._cache.of_user(USER, ["g1"])
    day_of(second).forgetting.look()
    assert day_of(second).forgetting._cache.of_user(USER, ["g1"]) == {}
    assert day_of(second).forgetting._cache.of_user("stays", ["g1"])

    with in_use(going_on.workspace.work):  # a step is running: its files cannot be touched
        report = finish_erasures(stack.engine, stack.root, now_ms=6)
        assert (report["completed"], report["open"], report["busy"]) == (0, 1, ["night-1"])
    url = f"/v1/erasures/{receipt['erasure_id']}"
    assert second.get(url).json()["completed_at"] is None

    report = finish_erasures(stack.engine, stack.root, now_ms=7)
    assert (report["completed"], report["open"], report["busy"]) == (1, 0, [])
    assert scanned(stack) == []
    after = second.get(url).json()
    assert (after["completed_at"], after["to_rewrite"]) == ("1970-01-01T00:00:00.007000Z", [])
    assert second.get("/v1/erasures/none").status_code == 404

    for night in (going_on, failed):  # the failed one may only wait for its next try
        kept = pq.read_table(night.workspace.events)["user_key"].to_pylist()
        assert (kept, user_key in kept) == ([neighbour], False)
        assert EventVectors.open(night.workspace.work).keys_S2.tolist() == [[neighbour, 1]]
    assert run_step(failed, "export", export)["events"] == 6, "its next try goes on where it was"
    # the test's own client logs the addresses it asks; what counts is what moonlark logged
    logged = [line for line in caplog.record_tuples if not line[0].startswith("httpx")]
    assert CANARY not in str(logged)
    assert finish_erasures(stack.engine, stack.root, now_ms=8)["completed"] == 0


def test_what_no_night_goes_on_with_is_discarded(lived: Stack) -> None:
    gone, orphan = night_of(lived, "night-1"), lived.root / "work" / "unknown"
    shutil.copytree(gone.workspace.work, orphan)
    generations.prune(lived.engine, "night-1")
    lived.replicas[0].delete(URL)
    assert finish_erasures(lived.engine, lived.root, now_ms=7)["work_discarded"] == [
        *("night-1", "unknown")
    ]
    assert scanned(lived) == []
    assert not gone.workspace.work.exists()
    assert not orphan.exists()


def test_a_late_retry_is_gone_and_a_new_event_makes_a_new_user(lived: Stack) -> None:
    first, second = lived.replicas
    erased_at = first.delete(URL).json()["erased_at"]
    late = {"kind": "click", "item_id": "i1", "user_id": USER, "event_id": "e", "occurred_at": AT}
    answer = second.post("/v1/events", json=late)
    assert answer.status_code == 410
    assert answer.json()["errors"][0]["field"] == "occurred_at"
    assert second.get(URL).status_code == 404
    late["occurred_at"] = erased_at
    assert second.post("/v1/events", json=late).status_code == 410
    assert first.post("/v1/events", json={**late, "occurred_at": None}).status_code == 200
    assert second.get(URL).json()["user_seq"] == 1


def test_a_replica_that_starts_on_a_restored_database_erases_again(
    lived: Stack, serve_settings: ServeSettings
) -> None:
    backup = lived.root.with_name("restored.db")
    with sqlite3.connect(lived.root / "moonlark.db") as source, sqlite3.connect(backup) as copy:
        source.backup(copy)
    assert lived.replicas[0].delete(URL).json()["erased"]["users"] == 1
    store = StoreSettings(database_url=f"sqlite:///{backup}", artifact_root=lived.root)
    api = build_api(serve_settings, lambda: Day.start(store, serve_settings, lived.embed))
    with TestClient(api, base_url="http://127.0.0.1") as replica:
        assert replica.get(URL).status_code == 404
        assert replica.get("/v1/users/stays").status_code == 200


def test_an_export_that_broke_off_leaves_nothing_either(lived: Stack) -> None:
    night = night_of(lived, "night-1")
    (night.workspace.work / "export.json").unlink()
    whole = night.workspace.events.read_bytes()
    night.workspace.events.write_bytes(whole[: len(whole) // 2])
    lived.replicas[0].delete(URL)
    assert finish_erasures(lived.engine, lived.root, now_ms=7)["completed"] == 1
    assert scanned(lived) == []
    assert not night.workspace.events.exists()


def test_work_of_nights_that_broke_off_is_bounded_in_time(lived: Stack) -> None:
    old, young = night_of(lived, "old", now_ms=5), night_of(lived, "young", now_ms=50)
    running = night_of(lived, "running", now_ms=5)
    generations.fail(lived.engine, "old", "broke off")
    unknown = lived.root / "work" / "unknown"
    shutil.copytree(young.workspace.work, unknown)
    with in_use(running.workspace.work):
        assert discard_old_work(lived.engine, lived.root, before_ms=50) == ["old"]
    there = [night.workspace.work.exists() for night in (old, young, running)]
    assert (there, unknown.exists()) == ([False, True, True], False)
    assert not Path(old.workspace.directory).exists()
    with read_snapshot(lived.engine) as conn:
        found = generations.get_generation(conn, "old")
    assert found is not None
    assert found.state == "pruned"
