"""Drill `kill-airflow`: kill -9 of each Airflow process amid a night ends in one generation.

The DAG `nightly_generation` as it is shipped, on the four components as in production. Its jobs
are the shipped steps on a small catalog, without Ray (`night_job`, `jobs_api`). In each round
another process is killed while a job runs, with all that it started, and started again as a
service manager would: scheduler (with its workers), triggerer, DAG processor, API server; or the
process of a task alone. The night must then end well, have published once, and no step may have
run beside itself.

The last victim is a job of the night itself, which somebody stops: its run fails, the callback in
the DAG processor fails its generation, and nothing is published. Its failed tasks are cleared, as
the runbook says, and the night must end as the others do, with nothing done again that was done.
"""

import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx
from tqdm import tqdm

from infra.drills.airflow_nights import NIGHT, AirflowNights, airflow_nights
from infra.drills.figures import Figures, Options
from infra.stack import processes
from infra.stack.airflow_components import (
    API_SERVER,
    COMPONENTS,
    DAG_PROCESSOR,
    SCHEDULER,
    TRIGGERER,
    LocalAirflow,
)
from ray_jobs.nightly.broke_off import RUN_FAILED
from sql import generations
from sql.engine import read_snapshot

TASK_RUNNER = "task-runner"
JOB = "job"
VICTIMS = (TRIGGERER, SCHEDULER, TASK_RUNNER, DAG_PROCESSOR, API_SERVER, JOB)
AFTER_JOBS = 3
"""The kill comes when so many jobs of the night were begun."""
STOPPED = "embed"
"""The third of them."""
ATTEMPT = re.compile(r"-c\d+-a\d+$")
DOWN_S = 2.0


@dataclass
class _Drill:
    nights: AirflowNights
    figures: Figures

    def night(self, number: int, victim: str) -> None:
        """One night with one kill."""
        run_id, before = f"drill-{number}", set(self.nights.jobs.jobs)
        flips = self.nights.flips()
        body: dict[str, Any] = {"dag_run_id": run_id, "logical_date": None, "conf": {}}
        self.nights.airflow.api("POST", f"/dags/{NIGHT}/dagRuns", body)
        began = self.nights.wait(
            lambda: len(set(self.nights.jobs.jobs) - before) >= AFTER_JOBS, f"jobs of {run_id}"
        )
        told = f"{victim}: night {run_id}"
        if began and victim == JOB:
            self._stop_job(run_id, flips, told)
        elif began:
            self._kill(victim)
        ended = self._ended(run_id)
        if not ended or self._state(run_id) != "success":
            self.figures.tell(f"{told} ended {self._state(run_id)}")
        if self.nights.flips() != flips + 1:
            self.figures.tell(f"{told} published {self.nights.flips() - flips} times")
        ran = Counter(ATTEMPT.sub("", name) for name in set(self.nights.jobs.jobs) - before)
        for work, times in ran.items():
            if times > (2 if victim == JOB and f"-{STOPPED}-" in work else 1):
                self.figures.duplicated += times - 1
                self.figures.tell(f"{told}: {times} jobs of {work}")

    def _ended(self, run_id: str) -> bool:
        return self.nights.wait(
            lambda: self._state(run_id) in ("success", "failed"), f"end of {run_id}"
        )

    def _stop_job(self, run_id: str, flips: int, told: str) -> None:
        """As by `ray job stop`; then, when its generation has failed, the run goes on."""
        newest = list(self.nights.jobs.jobs)[-1]
        assert f"-{STOPPED}-" in newest, f"{newest} is not {STOPPED}"
        self.nights.jobs.post(f"/api/jobs/{newest}/stop", {})
        self._ended(run_id)
        if (state := self._state(run_id)) != "failed":
            self.figures.tell(f"{told} ended {state} though its job was stopped")
        marked = self.nights.wait(
            lambda: bool(self._run_failed()), f"{run_id} fails its generation"
        )
        if marked and self.nights.flips() != flips:
            self.figures.tell(f"{told} published, and failed")
        self.figures.more["run_failed"] = self._run_failed()
        body = {"dag_run_id": run_id, "dry_run": False, "only_failed": True, "reset_dag_runs": True}
        self.nights.airflow.api("POST", f"/dags/{NIGHT}/clearTaskInstances", body)

    def _run_failed(self) -> list[str]:
        """The reasons of the generations that the callback failed."""
        with read_snapshot(self.nights.store.engine) as conn:
            known = generations.list_generations(conn)
        return [
            str(each.failed_reason)
            for each in known
            if each.state == "failed" and each.metrics.get("failed_as") == RUN_FAILED
        ]

    def _kill(self, victim: str) -> None:
        if victim != TASK_RUNNER:
            self.nights.airflow.kill(victim)
            time.sleep(DOWN_S)
            self.nights.airflow.start(victim)
            return
        self.nights.wait(self._kill_task_runners, "a task runs")

    def _kill_task_runners(self) -> bool:
        """Whether there was one: a task that waits for its job has none."""
        runners = self.nights.airflow.task_runners()
        processes.kill_all(runners)
        return bool(runners)

    def _state(self, run_id: str) -> str | None:
        try:
            found: str = self.nights.airflow.api("GET", f"/dags/{NIGHT}/dagRuns/{run_id}")["state"]
        except httpx.HTTPError:  # the API server is what was killed
            return None
        return found


def run(options: Options) -> Figures:
    """`rounds` nights, the victims in turn (or the one of `options.name`); by default one each."""
    victims = VICTIMS if options.name is None else (options.name,)
    if not {*victims} <= {*VICTIMS}:
        raise ValueError(f"kill-airflow: {options.name!r}, accepted: {', '.join(VICTIMS)}")
    rounds = len(victims) if options.rounds is None else options.rounds
    figures = Figures("kill-airflow", rounds, options.seed)
    # No schedule: else the run of the last night comes by itself as soon as the DAG may run.
    with airflow_nights(LocalAirflow, figures, options.seed, schedule="") as nights:
        drill = _Drill(nights, figures)
        seconds: dict[str, float] = {}
        for number in tqdm(
            range(rounds), "kill-airflow", unit="night", disable=not options.progress
        ):
            victim = victims[number % len(victims)]
            started_s = time.monotonic()
            drill.night(number, victim)
            seconds[victim] = round(time.monotonic() - started_s, 1)
        figures.more |= {"nights": rounds, "published": nights.flips(), "night_s": seconds}
    return figures


assert set(VICTIMS) == {*COMPONENTS, TASK_RUNNER, JOB}
