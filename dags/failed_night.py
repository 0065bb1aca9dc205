"""When a run that makes a generation fails, the generation is failed too, whoever was killed.

A step that raises says so itself. One that is killed once too often, that is out of time or lost
with its node leaves a generation that is building for ever. A job on Ray marks it (`broke_off`);
where Ray is away, too, the alert NightStuck tells, hours later.
"""

import logging
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from dags.ray_job.errors import RayJobError
from dags.ray_job.hook import RayJobHook
from dags.ray_job.orphans import stop_orphans
from dags.ray_job.submission import TaskCoordinates

log = logging.getLogger(__name__)

BROKE_OFF = "broke_off"


def fails_with_its_run(
    name: Callable[[Any], str], is_owed: Callable[[Any], bool] = lambda run: False
) -> Callable[[Mapping[str, Any]], None]:
    """The callback of a DAG. `name`: the id of the generation of a DAG run, asked where `begin`
    gave none. `is_owed`: whether a run that failed before it left a row of one is told, too."""

    def failed(context: Mapping[str, Any]) -> None:
        stop_orphans(context)
        dag_run = context.get("dag_run")
        mark_failed(context, name, is_owed=dag_run is not None and is_owed(dag_run))

    return failed


def mark_failed(
    context: Mapping[str, Any],
    name: Callable[[Any], str],
    jobs_url: str | None = None,
    *,
    is_owed: bool = False,
) -> str | None:
    """Submit the job that marks the generation of the failed run; its submission id."""
    dag_id, dag_run = context["dag"].dag_id, context.get("dag_run")
    if dag_run is None:  # Airflow leaves it out where it knows no task of the run
        log.error("%s of %s failed, its generation may stay building", context["run_id"], dag_id)
        return None
    clears = getattr(dag_run, "clear_number", None) or 0
    task = TaskCoordinates(dag_id, context["run_id"], BROKE_OFF, -1, clears)
    why = f"the run of {dag_id} failed: {context.get('reason') or 'no reason given'}"
    words = ["python", "-m", f"ray_jobs.nightly.{BROKE_OFF}"]
    made = _begun(context) or name(dag_run)
    words += ["--generation", made, "--why", why, *(["--owed"] if is_owed else [])]
    hook = RayJobHook(jobs_url)
    try:
        attempts, _ = hook.find_attempts(task)
        submission_id = task.submission_id(len(attempts) + 1)
        hook.submit(submission_id, shlex.join(words), try_number=1, env_vars={}, num_cpus=0)
    except RayJobError as error:
        # Nothing above us could act on it; NightStuck tells in some hours.
        log.error("%s: its generation may stay building: %s", why, error)
        return None
    return submission_id


def _begun(context: Mapping[str, Any]) -> str | None:
    """The id that `begin` gave the run: a backfill that is cleared goes on under its first one.

    None: `begin` never ran.
    """
    night = context["ti"].xcom_pull(task_ids="begin", map_indexes=-1)
    return None if night is None else str(night["generation"])
