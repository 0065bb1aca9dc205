"""Drill `kill-airflow`: kill -9 of each Airflow process amid a night ends in one generation.

The DAG `nightly_generation` as it is shipped, on the four components as in production. Its jobs
are the shipped steps on a small catalog, without Ray (`night_job`, `jobs_api`). In each round
another process is killed while a job runs, with all that it started, and started again as a
service manager would: scheduler (with its workers), triggerer, DAG processor, API server; or the
process of a task alone. The night must then end well, have published once, and no step may have
run beside itself.
"""

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

TASK_RUNNER = "task-runner"
VICTIMS = (TRIGGERER, SCHEDULER, TASK_RUNNER, DAG_PROCESSOR, API_SERVER)
AFTER_JOBS = 3
"""The kill comes when so many jobs of the night were begun."""
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
        if began:
            self._kill(victim)
        ended = self.nights.wait(
            lambda: self._state(run_id) in ("success", "failed"), f"end of {run_id}"
        )
        told = f"{victim}: night {run_id}"
        if not ended or self._state(run_id) != "success":
            self.figures.tell(f"{told} ended {self._state(run_id)}")
        if self.nights.flips() != flips + 1:
            self.figures.tell(f"{told} published {self.nights.flips() - flips} times")
        ran = Counter(name.rpartition("-a")[0] for name in set(self.nights.jobs.jobs) - before)
        for work, times in ran.items():
            if times > 1:
                self.figures.duplicated += times - 1
                self.figures.tell(f"{told}: {times} jobs of {work}")

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


assert set(VICTIMS) == {*COMPONENTS, TASK_RUNNER}
