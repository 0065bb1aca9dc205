"""When a run fails, no Ray job of it goes on: for jobs that no task waits for any more.

Killed while it waits, a task stops its job (operator, trigger). But a task that is marked failed
before a triggerer has taken up its trigger, and the tasks of a run that is out of time
(`dagrun_timeout`), have nobody who could. Airflow calls `stop_jobs_of_run` in the DAG processor
when a run has failed (`on_failure_callback` of the DAGs); that process needs MOONLARK_RAY_JOBS_URL.
"""

import logging
from collections.abc import Mapping
from typing import Any

from dags.ray_job.errors import RayJobError
from dags.ray_job.hook import RayJobHook, run_name

log = logging.getLogger(__name__)


def stop_jobs_of_run(context: Mapping[str, Any]) -> None:
    """The callback of a DAG."""
    stop_orphans(context)


def stop_orphans(context: Mapping[str, Any], jobs_url: str | None = None) -> list[str]:
    """Stop what still runs of the failed run; their submission ids."""
    hook = RayJobHook(jobs_url)
    name = run_name(context["dag"].dag_id, context["run_id"])
    stopped: list[str] = []
    try:
        for submission_id in hook.active_of_run(name):
            log.warning("Stopping Ray job %s: its run %s failed", submission_id, name)
            hook.stop(submission_id)
            stopped.append(submission_id)
    except RayJobError as error:
        # Nothing above us could act on it; the log must say that jobs may still run.
        log.error("Ray jobs of %s may still run: %s", name, error)
    return stopped
