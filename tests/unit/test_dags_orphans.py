"""When a run fails, its Ray jobs are stopped, and nobody else's."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dags.ray_job.hook import RayJobHook, run_name
from dags.ray_job.orphans import stop_orphans
from tests.jobs_api import JobsApi


def test_the_jobs_of_a_failed_run_are_stopped_and_no_others(tmp_path: Path) -> None:
    with JobsApi(tmp_path) as api:
        hook = RayJobHook(api.url)
        for name, command, run in (
            ("over", "true", "failed"),
            ("orphan", "sleep 600", "failed"),
            ("other", "sleep 600", "goes-on"),
        ):
            hook.submit(
                name, command, try_number=1, env_vars={}, num_cpus=0, run=run_name("night", run)
            )
        api.jobs["over"].process.wait(timeout=60)
        context = {"dag": SimpleNamespace(dag_id="night"), "run_id": "failed"}
        assert stop_orphans(context, api.url) == ["orphan"]
        api.jobs["orphan"].process.wait(timeout=60)
        assert api.jobs["other"].process.poll() is None
        assert stop_orphans(context, api.url) == []


def test_a_head_that_is_away_is_told_and_nothing_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = {"dag": SimpleNamespace(dag_id="night"), "run_id": "failed"}
    assert stop_orphans(context, "http://127.0.0.1:9") == []
    assert "may still run" in caplog.text
