"""Erasures are finished: every stored copy of an erased user's rows is rewritten.

The rows themselves are gone at once; here go the copies in work files and the bytes of the
database, and the receipts say so. A night that waits between two tries keeps its work folder,
without those rows. Where a step is running right now its folder cannot be touched: the erasures
stay open until the next run. By hand: `moonlark erase --finish`, or `airflow dags test
erase_users`; after a restore `--conf '{"compare": "all"}'`.
"""

from datetime import timedelta

import pendulum
from airflow.sdk import Param, dag

from dags.ray_job.operator import RayJobOperator
from dags.ray_job.orphans import stop_jobs_of_run


@dag(
    dag_id="erase_users",
    schedule="0 1 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12),
    params={
        "compare": Param(
            "new",
            type="string",
            enum=["new", "all"],
            description="all: compare every user with the ledger, as after a restore",
        ),
    },
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    on_failure_callback=stop_jobs_of_run,
    tags=["moonlark"],
    doc_md=__doc__,
)
def erase_users() -> None:
    RayJobOperator(
        task_id="erase_users",
        entrypoint=[
            *("python", "-m", "ray_jobs.nightly.erase_users"),
            *("--compare", "{{ params.compare }}"),
        ],
        deferrable=True,
        job_timeout_s=2 * 3_600.0,
    )


erase_users()
