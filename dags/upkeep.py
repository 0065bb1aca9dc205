"""What is older than its retention goes (`MOONLARK_RETAIN_...`), before the night folds the rest.

By hand: `moonlark retain`. Try it: `airflow dags test upkeep`.
"""

from datetime import timedelta

import pendulum
from airflow.sdk import dag

from dags.ray_job.operator import RayJobOperator
from dags.ray_job.orphans import stop_jobs_of_run

JOB_TIMEOUT_S = 2 * 3_600.0


@dag(
    dag_id="upkeep",
    schedule="30 1 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12),
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    on_failure_callback=stop_jobs_of_run,
    tags=["moonlark"],
    doc_md=__doc__,
)
def upkeep() -> None:
    RayJobOperator(
        task_id="retain",
        entrypoint=["python", "-m", "ray_jobs.nightly.retain"],
        deferrable=True,
        job_timeout_s=JOB_TIMEOUT_S,
    )


upkeep()
