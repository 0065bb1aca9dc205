"""Back to an earlier generation, by hand: the same compare-and-set on the live pointer.

Sets `hold`: no night publishes until a person clears it. The history says who triggered the run.
Where Ray is away for longer than two minutes the run fails, and no other try is made: by then a
person may have published something else, which a late rollback would take back. `moonlark
rollback` needs no Ray. Try it: `airflow dags test rollback_generation --conf '{"to": "g2026...",
"why": "..."}'`.
"""

import pendulum
from airflow.sdk import Param, dag

from dags.ray_job.operator import RayJobOperator
from dags.ray_job.orphans import stop_jobs_of_run


@dag(
    dag_id="rollback_generation",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={
        "to": Param(type="string", minLength=1, description="generation to go back to"),
        "why": Param(type="string", minLength=1, description="reason, kept in the history"),
    },
    on_failure_callback=stop_jobs_of_run,
    tags=["moonlark"],
    doc_md=__doc__,
)
def rollback_generation() -> None:
    RayJobOperator(
        task_id="rollback",
        # Words, not one string: they are quoted after templating, whatever `why` holds.
        entrypoint=[
            *("python", "-m", "ray_jobs.nightly.rollback"),
            *("--to", "{{ params.to }}", "--why", "{{ params.why }}"),
            # One word, for a name may be empty (older runs) or begin with a dash.
            "--who={{ dag_run.triggering_user_name or '' }}",
        ],
        job_timeout_s=600.0,
    )


rollback_generation()
