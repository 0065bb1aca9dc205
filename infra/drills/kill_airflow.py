"""Drill `kill-airflow`: kill -9 of each Airflow process amid a night ends in one generation.

The DAG `nightly_generation` as it is shipped, on the four components as in production. Its jobs
are the shipped steps on a small catalog, without Ray (`night_job`, `jobs_api`). In each round
another process is killed while a job runs, with all that it started, and started again as a
service manager would: scheduler (with its workers), triggerer, DAG processor, API server; or the
process of a task alone. The night must then end well, have published once, and no step may have
run beside itself.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from infra.drills.figures import Figures, Options
from infra.drills.jobs_api import JobsApi
from infra.drills.local import LocalStore, local_store
from infra.drills.small_night import fill
from infra.stack import processes
from infra.stack.airflow_components import (
    API_SERVER,
    COMPONENTS,
    DAG_PROCESSOR,
    SCHEDULER,
    TRIGGERER,
    LocalAirflow,
)
from infra.stack.airflow_env import AirflowEnvironment
from sql import generations
from sql.engine import read_snapshot

DAG_ID = "nightly_generation"
TASK_RUNNER = "task runner"
VICTIMS = (TRIGGERER, SCHEDULER, TASK_RUNNER, DAG_PROCESSOR, API_SERVER)
AFTER_JOBS = 3
"""The kill comes when so many jobs of the night were begun."""
DOWN_S = 2.0
NIGHT_S = 1_800.0
POLL_S = 0.5
JOB = """#!/bin/sh
exec "$MOONLARK_DRILL_PYTHON" -m infra.drills.night_job "$@"
"""


@dataclass
class _Drill:
    store: LocalStore
    jobs: JobsApi
    airflow: LocalAirflow
    figures: Figures

    def night(self, number: int, victim: str) -> None:
        """One night with one kill."""
        run_id, before = f"drill-{number}", set(self.jobs.jobs)
        flips = self._flips()
        body: dict[str, Any] = {"dag_run_id": run_id, "logical_date": None, "conf": {}}
        self.airflow.api("POST", f"/dags/{DAG_ID}/dagRuns", body)
        began = self._wait(
            lambda: len(set(self.jobs.jobs) - before) >= AFTER_JOBS, f"jobs of {run_id}"
        )
        if began:
            self._kill(victim)
        ended = self._wait(lambda: self._state(run_id) in ("success", "failed"), f"end of {run_id}")
        told = f"{victim}: night {run_id}"
        if not ended or self._state(run_id) != "success":
            self.figures.tell(f"{told} ended {self._state(run_id)}")
        if self._flips() != flips + 1:
            self.figures.tell(f"{told} published {self._flips() - flips} times")
        ran = Counter(name.rpartition("-a")[0] for name in set(self.jobs.jobs) - before)
        for work, times in ran.items():
            if times > 1:
                self.figures.duplicated += times - 1
                self.figures.tell(f"{told}: {times} jobs of {work}")

    def _kill(self, victim: str) -> None:
        if victim != TASK_RUNNER:
            self.airflow.kill(victim)
            time.sleep(DOWN_S)
            self.airflow.start(victim)
            return
        self._wait(lambda: bool(self.airflow.task_runners()), "a task runs")
        processes.kill_all(self.airflow.task_runners())

    def _state(self, run_id: str) -> str | None:
        try:
            found: str = self.airflow.api("GET", f"/dags/{DAG_ID}/dagRuns/{run_id}")["state"]
        except httpx.HTTPError:  # the API server is what was killed
            return None
        return found

    def _flips(self) -> int:
        with read_snapshot(self.store.engine) as conn:
            live = generations.read_live(conn)
        return 0 if live is None else live.flip

    def _wait(self, condition: Callable[[], bool], what: str) -> bool:
        deadline = time.monotonic() + NIGHT_S
        while not condition():
            if time.monotonic() >= deadline:
                self.figures.tell(f"not within {NIGHT_S:.0f} s: {what}")
                return False
            time.sleep(POLL_S)
        return True


def run(options: Options) -> Figures:
    """`rounds` nights, the victims in turn; by default one night each."""
    rounds = len(VICTIMS) if options.rounds is None else options.rounds
    figures = Figures("kill-airflow", rounds, options.seed)
    with _drill(figures, options.seed) as drill:
        seconds: dict[str, float] = {}
        for number in tqdm(
            range(rounds), "kill-airflow", unit="night", disable=not options.progress
        ):
            victim = VICTIMS[number % len(VICTIMS)]
            started_s = time.monotonic()
            drill.night(number, victim)
            seconds[victim] = round(time.monotonic() - started_s, 1)
        figures.more |= {"nights": rounds, "published": drill._flips(), "night_s": seconds}
    return figures


@contextmanager
def _drill(figures: Figures, seed: int) -> Iterator[_Drill]:
    with local_store(items=0, seed=seed) as store:
        fill(store, seed)
        job = store.folder / "bin" / "python"
        job.parent.mkdir()
        job.write_text(JOB)
        job.chmod(0o700)
        env = {
            "MOONLARK_DATABASE_URL": store.database_url,
            "MOONLARK_ARTIFACT_ROOT": str(store.root),
            "MOONLARK_DRILL_PYTHON": sys.executable,
            "PATH": f"{job.parent}:{os.environ.get('PATH', os.defpath)}",
        }
        with JobsApi(store.folder, env) as jobs:
            airflow = LocalAirflow(
                AirflowEnvironment(store.folder),
                env={
                    "MOONLARK_RAY_JOBS_URL": jobs.url,
                    # Else the run of the last night comes by itself as soon as the DAG may run.
                    "MOONLARK_NIGHT_SCHEDULE": "",
                    **_where_we_are(),
                },
            )
            with airflow:
                drill = _Drill(store, jobs, airflow, figures)
                if drill._wait(lambda: _is_parsed(airflow), "the DAG is parsed"):
                    airflow.api("PATCH", f"/dags/{DAG_ID}", {"is_paused": False})
                yield drill


def _where_we_are() -> dict[str, str]:
    """So that Airflow's processes find the project also where it is not installed."""
    project = str(Path(__file__).parents[2])
    return {"PYTHONPATH": os.pathsep.join([project, *filter(None, [os.getenv("PYTHONPATH")])])}


def _is_parsed(airflow: LocalAirflow) -> bool:
    try:
        airflow.api("GET", f"/dags/{DAG_ID}")
    except httpx.HTTPError:
        return False
    return True


assert set(VICTIMS) == {*COMPONENTS, TASK_RUNNER}
