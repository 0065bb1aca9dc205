"""Every hour: is what is live still what the night made, and does the day still compute it?

Changes nothing. A failure of it is an alarm, not a rollback. Try it: `airflow dags test
verify_live`.
"""

from datetime import timedelta

import pendulum
from airflow.sdk import dag

from dags.ray_job.operator import RayJobOperator
from dags.ray_job.orphans import stop_jobs_of_run


@dag(
    dag_id="verify_live",
    schedule="17 * * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=3),
    default_args={"retries": 2, "retry_delay": timedelta(minutes=2)},
    on_failure_callback=stop_jobs_of_run,
    tags=["moonlark"],
    doc_md=__doc__,
)
def verify_live() -> None:
    RayJobOperator(
        task_id="verify_live",
        entrypoint=["python", "-m", "ray_jobs.nightly.verify_live"],
        deferrable=True,
        job_timeout_s=2_400.0,
    )


verify_live()
