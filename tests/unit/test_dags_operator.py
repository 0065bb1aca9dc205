"""Before a job is followed: a kill leaves none running, a head that is starting gets one job."""

import os
import tempfile
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="mlk-airflow-"))

from dags.ray_job import operator as operator_module
from dags.ray_job.errors import RayJobFailed, RayJobsRefused, RayJobsUnreachable
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


def execute(
    operator: RayJobOperator, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any] | None:
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
    result: dict[str, Any] | None = operator.execute(context)
    return result


@pytest.mark.parametrize(
    ("when", "running", "left"),
    [("find", False, []), ("find", True, ["STOPPED"]), ("submit", False, ["STOPPED"])],
)
def test_a_kill_before_the_job_is_followed_leaves_none_running(
    monkeypatch: pytest.MonkeyPatch, when: str, running: bool, left: list[str]
) -> None:
    operator = RayJobOperator(task_id="t", entrypoint="true", poll_interval_s=0.01)
    cluster = Cluster(lambda call: operator.on_kill() if call == when else None)
    if running:
        cluster.jobs[TaskCoordinates("d", "r", "t", -1, 0).submission_id(1)] = "RUNNING"
    with pytest.raises((RayJobsRefused, RayJobFailed)):
        execute(operator, cluster, monkeypatch)
    assert list(cluster.jobs.values()) == left


class StartingHead(Cluster):
    """Answers looks at once, and takes a job after so many submits; `loses`: takes it, too, when it
    says that it does not."""

    def __init__(self, refusals: int, *, loses: bool = False) -> None:
        super().__init__(lambda _: None)
        self.refusals = refusals
        self.loses = loses
        self.submits = 0

    def submit(self, submission_id: str, *_: Any, **__: Any) -> None:
        self.submits += 1
        if self.submits > self.refusals or self.loses:
            self.jobs[submission_id] = "SUCCEEDED"
        if self.submits <= self.refusals:
            raise RayJobsUnreachable("No available agent to submit job", hint="wait")


@pytest.mark.parametrize(("loses", "submits"), [(False, 21), (True, 1)])
def test_a_head_that_is_starting_is_waited_for_and_gets_one_job(
    monkeypatch: pytest.MonkeyPatch, loses: bool, submits: int
) -> None:
    operator = RayJobOperator(task_id="t", entrypoint="true", poll_interval_s=0.01)
    cluster = StartingHead(20, loses=loses)
    execute(operator, cluster, monkeypatch)
    assert (cluster.submits, len(cluster.jobs)) == (submits, 1)


def test_a_head_that_takes_no_jobs_for_long_is_the_infrastructures_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator = RayJobOperator(
        task_id="t", entrypoint="true", poll_interval_s=0.01, unreachable_limit_s=0.05
    )
    with pytest.raises(RayJobsUnreachable):
        execute(operator, StartingHead(10**6), monkeypatch)
