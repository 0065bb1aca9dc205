"""What is to be forgotten: erasures are finished, then what is older than its retention goes.

Erased rows are gone at once; here go the copies in work files and the bytes of the database. By
hand: `moonlark erase --finish`, `moonlark retain`. Try it: `airflow dags test upkeep`.
"""

from datetime import timedelta

import pendulum
from airflow.sdk import chain, dag

from dags.ray_job.operator import RayJobOperator

JOBS = ("erase_users", "retain")
JOB_TIMEOUT_S = 2 * 3_600.0


@dag(
    dag_id="upkeep",
    schedule="0 1 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["moonlark"],
    doc_md=__doc__,
)
def upkeep() -> None:
    jobs = [
        RayJobOperator(
            task_id=job,
            entrypoint=["python", "-m", f"ray_jobs.nightly.{job}"],
            deferrable=True,
            job_timeout_s=JOB_TIMEOUT_S,
        )
        for job in JOBS
    ]
    chain(*jobs)


upkeep()
