"""Real Airflow, and its processes killed: one job whatever dies, and what a user does stops it.

The jobs are plain processes behind a stand-in for Ray's API (`jobs_api`): here it is about who
submits, waits and stops. The four components are those of production, each in its own process.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.stack.airflow_components import SCHEDULER, TRIGGERER, LocalAirflow
from infra.stack.airflow_env import AirflowEnvironment
from infra.stack.postgres import PostgresServer, create_database
from tests.jobs_api import JobsApi

PROJECT_ROOT = Path(__file__).parents[2]
WAIT_S = 300.0
DAG_IDS = ("deferred", "blocking")
DATABASE = "airflow"

DAGS = '''
import pendulum
from airflow.sdk import dag
from dags.ray_job.operator import RayJobOperator

CODE = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / f"pid-{os.getpid()}").touch()
print("a line of the job", flush=True)
while not (folder / "release").exists(): time.sleep(0.1)
print('MOONLARK_RESULT {"released": true}')
"""

def waits(name, deferrable):
    @dag(dag_id=name, schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
         is_paused_upon_creation=False)
    def made():
        RayJobOperator(
            task_id="job", deferrable=deferrable, retries=5, retry_delay=1,
            entrypoint=["python", "-c", CODE, "{{ dag_run.conf['folder'] }}"],
        )
    return made()

deferred = waits("deferred", True)
blocking = waits("blocking", False)
'''


@dataclass
class Run:
    """A DAG run whose one job waits in `folder` until it is released."""

    airflow: LocalAirflow
    dag_id: str
    run_id: str
    folder: Path

    def start(self) -> "Run":
        self.folder.mkdir()
        conf = {"folder": str(self.folder)}
        body = {"dag_run_id": self.run_id, "logical_date": None, "conf": conf}
        self.airflow.api("POST", f"/dags/{self.dag_id}/dagRuns", body)
        return self

    @property
    def run_path(self) -> str:
        return f"/dags/{self.dag_id}/dagRuns/{self.run_id}"

    @property
    def path(self) -> str:
        return f"{self.run_path}/taskInstances/job"

    def state(self) -> str | None:
        try:
            found: str | None = self.airflow.api("GET", self.path)["state"]
        except httpx.HTTPError:  # while the scheduler makes the run
            return None
        return found

    def is_watched(self) -> bool:
        """Whether a triggerer has taken the trigger: before that Airflow tells nobody to stop."""
        trigger = self.airflow.api("GET", self.path)["trigger"]
        return trigger is not None and trigger["triggerer_id"] is not None

    def drivers(self) -> int:
        """How many jobs ever ran for it."""
        return len(list(self.folder.glob("pid-*")))

    def release(self) -> None:
        (self.folder / "release").touch()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:.0f} s: {what}"
        time.sleep(0.5)


def task_log(airflow: LocalAirflow, run: Run) -> str:
    """All that the task's pages show, over tries and triggerers."""
    logs = Path(airflow.env["AIRFLOW__LOGGING__BASE_LOG_FOLDER"])
    found = logs.glob(f"dag_id={run.dag_id}/run_id={run.run_id}/task_id=job/attempt=*")
    lines = [line for path in found for line in path.read_text().splitlines()]
    return "\n".join(str(json.loads(line).get("event")) for line in lines)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsApi]:
    with JobsApi(tmp_path_factory.mktemp("jobs")) as api:
        yield api


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    """Of Airflow's own database, Postgres as in production."""
    server = PostgresServer()
    try:
        server.start()
        create_database(server.url(), DATABASE)
        yield server.url(DATABASE)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, jobs: JobsApi, database_url: str
) -> Iterator[LocalAirflow]:
    folder = tmp_path_factory.mktemp("airflow")
    (folder / "dags").mkdir()
    (folder / "dags" / "waits.py").write_text(DAGS)
    with LocalAirflow(
        AirflowEnvironment(folder, dags_folder=folder / "dags", database_url=database_url),
        env={"MOONLARK_RAY_JOBS_URL": jobs.url, "PYTHONPATH": str(PROJECT_ROOT)},
        settings={"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20"},
    ) as running:
        wait_for(lambda: running.api("GET", "/dags")["total_entries"] == 2, "the DAGs are parsed")
        yield running


@pytest.mark.timeout(1_200)
def test_one_job_a_task_though_scheduler_triggerer_and_task_are_killed(
    airflow: LocalAirflow, jobs: JobsApi, tmp_path: Path
) -> None:
    runs = [Run(airflow, name, "killed", tmp_path / name).start() for name in DAG_IDS]
    deferred, _ = runs
    wait_for(lambda: deferred.state() == "deferred", "the first waits in the triggerer")
    wait_for(lambda: all(run.drivers() for run in runs), "both jobs run")
    assert airflow.task_runners(), "the second waits in a task runner"
    airflow.kill(TRIGGERER)
    airflow.kill(SCHEDULER)  # and with it the worker and the task runner
    time.sleep(1.0)
    airflow.start(SCHEDULER)
    airflow.start(TRIGGERER)
    wait_for(airflow.task_runners, "the second task is tried again")
    for run in runs:
        run.release()
    for run in runs:
        wait_for(lambda run=run: run.state() in ("success", "failed"), f"{run.dag_id} ends")
        assert (run.state(), run.drivers()) == ("success", 1)
        assert "a line of the job" in task_log(airflow, run)
    assert len([name for name in jobs.jobs if name.endswith("-c0-a1")]) == 2
    assert len(jobs.jobs) == 2


@pytest.mark.timeout(1_200)
def test_mark_failed_stops_the_job_and_clear_runs_it_again(
    airflow: LocalAirflow, jobs: JobsApi, tmp_path: Path
) -> None:
    run = Run(airflow, "deferred", "marked", tmp_path / "marked").start()
    wait_for(lambda: run.drivers() and run.state() == "deferred", "the job is waited for")
    wait_for(run.is_watched, "a triggerer takes the trigger")
    time.sleep(3.0)  # it starts it within a second
    before = list(jobs.jobs)
    airflow.api("PATCH", run.path, {"new_state": "failed"})
    last = jobs.jobs[before[-1]]
    wait_for(lambda: last.process.poll() is not None and last.stopped, "its job is stopped")
    # Cleared while the scheduler is about to end the run, the task would wait in a run that ended.
    wait_for(lambda: airflow.api("GET", run.run_path)["state"] == "failed", "the run has failed")
    clear = {"dag_run_id": run.run_id, "dry_run": False, "only_failed": False, "task_ids": ["job"]}
    airflow.api("POST", "/dags/deferred/clearTaskInstances", clear)
    wait_for(lambda: run.drivers() == 2, "it runs again")
    run.release()
    wait_for(lambda: run.state() == "success", "it ends well")
    assert len(jobs.jobs) == len(before) + 1
