"""A kill counts whenever it comes: before a job is there, none starts, or it is stopped at once."""

import os
import tempfile
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="mlk-airflow-"))

from dags.ray_job import operator as operator_module
from dags.ray_job.errors import RayJobFailed, RayJobsRefused
from dags.ray_job.operator import RayJobOperator
from dags.ray_job.submission import JobSeen, TaskCoordinates


class Cluster:
    """Jobs by id; `during` is called with the name of each call, before it takes effect."""

    def __init__(self, during: Any) -> None:
        self.jobs: dict[str, str] = {}
        self.during = during

    def find_attempts(self, task: TaskCoordinates) -> tuple[list[JobSeen], list[JobSeen]]:
        self.during("find")
        return [JobSeen(job, status, 1) for job, status in self.jobs.items()], []

    def submit(self, submission_id: str, *_: Any, **__: Any) -> None:
        self.during("submit")
        self.jobs[submission_id] = "RUNNING"

    def look(self, submission_id: str) -> JobSeen | None:
        status = self.jobs.get(submission_id)
        return None if status is None else JobSeen(submission_id, status, 1)

    def stop(self, submission_id: str) -> bool:
        if self.jobs.get(submission_id) != "RUNNING":
            return False
        self.jobs[submission_id] = "STOPPED"
        return True

    def logs(self, submission_id: str) -> str:
        return ""


@pytest.mark.parametrize(
    ("when", "running", "left"),
    [("find", False, []), ("find", True, ["STOPPED"]), ("submit", False, ["STOPPED"])],
)
def test_a_kill_before_the_job_is_followed_leaves_none_running(
    monkeypatch: pytest.MonkeyPatch, when: str, running: bool, left: list[str]
) -> None:
    operator = RayJobOperator(task_id="t", entrypoint="true", poll_interval_s=0.01)
    cluster = Cluster(lambda call: operator.on_kill() if call == when else None)
    task = TaskCoordinates("d", "r", "t", -1, 0)
    if running:
        cluster.jobs[task.submission_id(1)] = "RUNNING"
    monkeypatch.setattr(operator_module, "RayJobHook", lambda _: cluster)
    ti = SimpleNamespace(
        dag_id="d",
        run_id="r",
        task_id="t",
        map_index=-1,
        try_number=1,
        stats_tags={},
        xcom_push=lambda **_: None,
    )
    context: Any = {"ti": ti, "dag_run": SimpleNamespace(clear_number=0)}
    with pytest.raises((RayJobsRefused, RayJobFailed)):
        operator.execute(context)
    assert list(cluster.jobs.values()) == left
