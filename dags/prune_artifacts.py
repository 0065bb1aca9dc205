"""Files and sessions that nobody can go back to any more are deleted, by hand.

Each night ends with it; this is for a disk that fills up. The live generation, the one before it
and the newest few (MOONLARK_KEEP_GENERATIONS, or `keep` of this run) stay. Try it: `airflow dags
test prune_artifacts --conf '{"keep": 2}'`.
"""

from datetime import timedelta

import pendulum
from airflow.sdk import Param, dag

from dags.ray_job.operator import RayJobOperator
from dags.ray_job.orphans import stop_jobs_of_run


@dag(
    dag_id="prune_artifacts",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    params={
        "keep": Param(
            None,
            type=["integer", "null"],
            minimum=2,
            maximum=1_000,
            description="so many of the newest generations stay; empty: as the settings say",
        ),
    },
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    on_failure_callback=stop_jobs_of_run,
    tags=["moonlark"],
    doc_md=__doc__,
)
def prune_artifacts() -> None:
    RayJobOperator(
        task_id="prune",
        entrypoint=["python", "-m", "ray_jobs.nightly.prune"],
        env_vars={"MOONLARK_KEEP_GENERATIONS": "{{ params.keep or '' }}"},
        deferrable=True,
        job_timeout_s=3_600.0,
    )


prune_artifacts()
