"""Drill `kill-airflow`: kill -9 of each Airflow process, and of the Ray head, amid a night ends in
one generation.

The DAG `nightly_generation` as it is shipped, on the four components as in production, its jobs on
a real Ray head (`airflow_nights`). In each round another victim is killed while a job runs and its
task waits in the triggerer, with all that it started, and started again as a service manager
would: scheduler (with its workers), triggerer, DAG processor, API server; the process of a task
alone; the Ray head with the job, which comes back with what it knew, or knowing nothing. The night
must then end well, have published once, and no step may have run beside itself, or again once it
was done; no job and no generation may be left over.

The last victim is a job of the night itself, which somebody stops: its run fails, the callback in
the DAG processor fails its generation, and nothing is published. Its failed tasks are cleared, as
the runbook says, and the night must end as the others do, with nothing done again that was done.
"""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx
from tqdm import tqdm

from infra.drills.airflow_nights import NIGHT, AirflowNights, airflow_nights
from infra.drills.figures import Figures, Options
from infra.drills.submitted import Job
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
RAY_HEAD = "ray-head"
NEW_RAY_HEAD = "new-ray-head"
JOB = "job"
VICTIMS = (
    *(TRIGGERER, SCHEDULER, TASK_RUNNER, DAG_PROCESSOR, API_SERVER),
    *(RAY_HEAD, NEW_RAY_HEAD, JOB),
)
DIES_WITH = (RAY_HEAD, NEW_RAY_HEAD, JOB)
"""Victims with which the job dies that runs."""
AFTER_JOBS = 3
"""The kill comes when so many jobs of the night were begun."""
DOWN_S = 2.0
HEAD_DOWN_S = 15.0


@dataclass
class _Drill:
    nights: AirflowNights
    figures: Figures

    def night(self, number: int, victim: str) -> None:
        """One night with one kill."""
        run_id, flips = f"drill-{number}", self.nights.flips()
        before = {job.submission_id for job in self.nights.jobs.all()}
        body: dict[str, Any] = {"dag_run_id": run_id, "logical_date": None, "conf": {}}
        self.nights.airflow.api("POST", f"/dags/{NIGHT}/dagRuns", body)
        told = f"{victim}: night {run_id}"
        begun: list[Job] = []

        def is_waited_for() -> bool:
            begun[:] = [job for job in self.nights.jobs.all() if job.submission_id not in before]
            is_running = len(begun) >= AFTER_JOBS and begun[-1].status == "RUNNING"
            return is_running and "deferred" in self._task_states(run_id)

        if self.nights.wait(is_waited_for, f"a job of {run_id} is waited for"):
            if victim == JOB:
                self._stop_job(begun[-1], run_id, flips, told)
            else:
                self._kill(victim)
        self._ended(run_id)
        if (state := self._state(run_id)) != "success":
            self.figures.tell(f"{told} ended {state}")
        if self.nights.flips() != flips + 1:
            self.figures.tell(f"{told} published {self.nights.flips() - flips} times")
        # A head that knows nothing gives the ids of before again.
        seen = {job.submission_id for job in begun} | before if victim != NEW_RAY_HEAD else set()
        later = [job for job in self.nights.jobs.all() if job.submission_id not in seen]
        died = begun[-1].work if victim in DIES_WITH and begun else None
        for work, times in too_often([*begun, *later], died).items():
            self.figures.duplicated += times - 1
            self.figures.tell(f"{told}: {times} jobs of {work}")
        self._nothing_left(told)

    def _nothing_left(self, told: str) -> None:
        active = [job.submission_id for job in self.nights.jobs.active()]
        with read_snapshot(self.nights.store.engine) as conn:
            known = generations.list_generations(conn)
        building = [each.generation_id for each in known if each.state == "building"]
        if active or building:
            self.figures.tell(f"{told} left jobs {active}, generations {building}")

    def _ended(self, run_id: str) -> bool:
        return self.nights.wait(lambda: self.nights.is_over(run_id), f"end of {run_id}")

    def _stop_job(self, job: Job, run_id: str, flips: int, told: str) -> None:
        """As by `ray job stop`; then, when its generation has failed, the run goes on."""
        self.nights.jobs.stop(job)
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
        if victim in (RAY_HEAD, NEW_RAY_HEAD):
            self.nights.kill_head(forgets=victim == NEW_RAY_HEAD)
            time.sleep(HEAD_DOWN_S)
            self.nights.cluster.restart_head()
        elif victim == TASK_RUNNER:
            self.nights.wait(self._kill_task_runners, "a task runs")
        else:
            self.nights.airflow.kill(victim)
            time.sleep(DOWN_S)
            self.nights.airflow.start(victim)

    def _kill_task_runners(self) -> bool:
        """Whether there was one: a task that waits for its job has none."""
        runners = self.nights.airflow.task_runners()
        processes.kill_all(runners)
        return bool(runners)

    def _task_states(self, run_id: str) -> set[str]:
        try:
            answer = self.nights.airflow.api("GET", f"/dags/{NIGHT}/dagRuns/{run_id}/taskInstances")
        except httpx.HTTPError:
            return set()
        return {each["state"] for each in answer["task_instances"]}

    def _state(self, run_id: str) -> str | None:
        try:
            found: str = self.nights.run(run_id)["state"]
        except httpx.HTTPError:  # the API server is what was killed
            return None
        return found


def too_often(ran: Iterable[Job], died: str | None) -> dict[str, int]:
    """Of which work there were more jobs than there may be, and how many: one, and one more of the
    work whose job died."""
    times = Counter(job.work for job in ran)
    return {work: n for work, n in times.items() if n > (2 if work == died else 1)}


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


assert {*COMPONENTS} < {*VICTIMS}
