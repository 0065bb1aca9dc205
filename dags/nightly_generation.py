"""The night: from the catalog and the event log to a published generation.

    begin -> export -> embed -> train -> build -> fuse -> fold -> evaluate
          -> publish -> verify -> parity

Each step is `python -m ray_jobs.nightly.<step> --generation ID` on Ray, and a transaction: run
again it gives the same result. `verify` rolls back, with hold, what it finds broken after the
publish. Try it: `airflow dags test nightly_generation`.
"""

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import chain, dag, task

from dags.generation_name import generation_id
from dags.ray_job.operator import RayJobOperator

STEPS = (
    "export",
    "embed",
    "train",
    "build",
    "fuse",
    "fold",
    "evaluate",
    "publish",
    "verify",
    "parity",
)
STEP_TIMEOUT = timedelta(hours=4)


@dag(
    dag_id="nightly_generation",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    # Two nights at once would race for the same machine and the same live pointer.
    max_active_runs=1,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
    tags=["moonlark"],
    doc_md=__doc__,
)
def nightly_generation() -> None:
    @task
    def begin(**context: Any) -> str:
        """The id of tonight's generation, computed once from the run."""
        dag_run = context["dag_run"]
        # A run that was triggered by hand may have no logical date.
        return generation_id(dag_run.run_id, dag_run.logical_date or dag_run.run_after)

    generation = begin()
    jobs = [
        RayJobOperator(
            task_id=step,
            entrypoint=["python", "-m", f"ray_jobs.nightly.{step}", "--generation", generation],
            job_timeout_s=STEP_TIMEOUT.total_seconds(),
        )
        for step in STEPS
    ]
    chain(generation, *jobs)


nightly_generation()
