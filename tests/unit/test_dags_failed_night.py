"""A run that failed leaves no generation building: the registry says failed, and why."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dags import failed_night
from dags.failed_night import mark_failed
from dags.nightly_generation import night_of, nightly_generation
from dags.rebuild_generation import made_by
from infra.drills.local import LocalStore, local_store
from sql import generations
from sql.engine import read_snapshot
from sql.generations import Generation
from tests.jobs_api import JobsApi

AT = datetime(2026, 11, 24, 3, tzinfo=UTC)


class TaskOfRun:
    """The task instance in the callback's context; `night`: what `begin` gave."""

    def __init__(self, night: dict[str, str] | None) -> None:
        self.night = night

    def xcom_pull(self, task_ids: str, *, map_indexes: int) -> dict[str, str] | None:
        assert (task_ids, map_indexes) == ("begin", -1), "a task of a shard is mapped, begin is not"
        return self.night


def run_of(dag_id: str, night: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """What Airflow hands to the callback."""
    told = {"run_id": "r1", "logical_date": AT, "run_after": AT, "run_type": "scheduled"}
    dag_run = SimpleNamespace(**{**told, "clear_number": 0, **more})
    dag = SimpleNamespace(dag_id=dag_id)
    ti = TaskOfRun(night)
    return {"dag": dag, "run_id": "r1", "dag_run": dag_run, "ti": ti, "reason": "timed_out"}


def shell_of(store: LocalStore) -> dict[str, str]:
    """Environment of the jobs."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MOONLARK_DATABASE_URL": store.database_url,
        "MOONLARK_ARTIFACT_ROOT": str(store.root),
    }


def the_night(run: Any) -> str:
    return night_of(run)["generation"]


def found(store: LocalStore, name: str) -> Generation:
    with read_snapshot(store.engine) as conn:
        generation = generations.get_generation(conn, name)
    assert generation is not None
    return generation


@pytest.mark.parametrize(
    ("dag_id", "name"), [("nightly_generation", the_night), ("rebuild_generation", made_by)]
)
def test_the_generation_of_a_failed_run_is_failed_with_the_reason(
    tmp_path: Path, dag_id: str, name: Any
) -> None:
    context = run_of(dag_id)
    made = name(context["dag_run"])
    is_owed = dag_id == "nightly_generation"  # then also without a row
    with local_store(items=5, seed=1) as store:
        if not is_owed:
            generations.register(store.engine, made, encoder_id="e", catalog_seq=0, created_at_ms=1)
        with JobsApi(tmp_path, shell_of(store)) as api:
            first = mark_failed(context, name, api.url, is_owed=is_owed)
            assert first is not None
            code = api.jobs[first].process.wait(timeout=120)
            assert code == 0, api.jobs[first].log.read_text()
            assert found(store, made).state == "failed"
            assert found(store, made).failed_reason == f"the run of {dag_id} failed: timed_out"
            assert found(store, made).metrics["failed_as"] == "RunFailed"
            again = mark_failed(context, name, api.url, is_owed=is_owed)
            assert again is not None
            assert again != first, "a run that was cleared may fail once more"


def test_a_backfill_that_is_cleared_and_fails_again_fails_the_generation_that_begin_named(
    tmp_path: Path,
) -> None:
    first = night_of(run_of("nightly_generation", run_type="backfill")["dag_run"])
    context = run_of("nightly_generation", first, run_type="backfill", clear_number=1)
    made = first["generation"]
    assert the_night(context["dag_run"]) != made, "asked now, the run has another name"
    with local_store(items=5, seed=1) as store:
        generations.register(store.engine, made, encoder_id="e", catalog_seq=0, created_at_ms=1)
        with JobsApi(tmp_path, shell_of(store)) as api:
            job = mark_failed(context, the_night, api.url, is_owed=True)
            assert job is not None
            assert api.jobs[job].process.wait(timeout=120) == 0, api.jobs[job].log.read_text()
        assert found(store, made).state == "failed"
        with read_snapshot(store.engine) as conn:
            assert [g.generation_id for g in generations.list_generations(conn)] == [made]


def test_a_backfill_that_left_no_row_is_owed_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    owed: list[bool] = []
    monkeypatch.setattr(failed_night, "stop_orphans", lambda context: None)
    monkeypatch.setattr(failed_night, "mark_failed", lambda *_, is_owed: owed.append(is_owed))
    failed = nightly_generation().on_failure_callback
    assert callable(failed)
    for run_type in ("scheduled", "manual", "backfill"):
        failed(run_of("nightly_generation", run_type=run_type))
    assert owed == [True, True, False]


def test_a_backfill_is_told_by_either_of_airflows_enums() -> None:
    words = run_of("n", run_type="backfill")["dag_run"]
    enum = run_of("n", run_type=SimpleNamespace(value="backfill"))["dag_run"]
    assert night_of(words) == night_of(enum)
    assert night_of(words)["rebuild"]


def test_where_nobody_can_be_told_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert mark_failed(run_of("nightly_generation"), the_night, "http://127.0.0.1:9") is None
    assert "may stay building" in caplog.text
    caplog.clear()
    bare = {**run_of("nightly_generation"), "dag_run": None}
    assert mark_failed(bare, the_night, "http://127.0.0.1:9") is None
    assert "may stay building" in caplog.text
