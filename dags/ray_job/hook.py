"""The Ray Jobs API as an Airflow hook: look, submit, stop, logs; with errors of our own.

The address comes from MOONLARK_RAY_JOBS_URL (or the argument), the token from RAY_AUTH_MODE and
RAY_AUTH_TOKEN_PATH.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from airflow.sdk import BaseHook

from dags.ray_job.errors import RayJobsRefused, RayJobsUnreachable
from dags.ray_job.submission import ACTIVE_STATUSES, MAX_ATTEMPTS, JobSeen, TaskCoordinates

JOBS_URL_VARIABLE = "MOONLARK_RAY_JOBS_URL"
TRY_NUMBER_KEY = "moonlark_try_number"
RUN_KEY = "moonlark_run"
MAX_CLEARS_LOOKED_BACK = 3
CLIENT_MODULE = "dags.ray_job.client"

Answer = TypeVar("Answer")


def run_name(dag_id: str, run_id: str) -> str:
    """By which the jobs of a DAG run are found (in their metadata)."""
    return f"{dag_id}/{run_id}"


class RayJobHook(BaseHook):
    """One Ray head's Jobs API.

    Every method raises RayJobsUnreachable (no answer, or a 5xx: worth another look) and
    RayJobsRefused (any other error).
    """

    def __init__(self, jobs_url: str | None = None) -> None:
        super().__init__()
        self.jobs_url = jobs_url or os.environ.get(JOBS_URL_VARIABLE, "")
        self._client: Any = None

    def look(self, submission_id: str) -> JobSeen | None:
        """The job as it is now, or None if Ray has none by that id."""
        details = self._call(
            lambda client: client.get_job_info(submission_id), missing_is_none=True
        )
        if details is None:
            return None
        try_number = (details.metadata or {}).get(TRY_NUMBER_KEY)
        return JobSeen(
            submission_id=submission_id,
            status=_plain(details.status) or "",
            try_number=int(try_number) if try_number is not None else None,
            message=details.message or "",
            error_type=_plain(details.error_type),
            exit_code=details.driver_exit_code,
        )

    def find_attempts(self, task: TaskCoordinates) -> tuple[list[JobSeen], list[JobSeen]]:
        """Jobs of this task under its clear number, and under the few before it, in order."""
        oldest = max(0, task.clear_number - MAX_CLEARS_LOOKED_BACK)
        earlier = [
            job
            for clear_number in range(oldest, task.clear_number)
            for job in self._attempts_of(task, clear_number)
        ]
        return self._attempts_of(task, task.clear_number), earlier

    def _attempts_of(self, task: TaskCoordinates, clear_number: int) -> list[JobSeen]:
        found: list[JobSeen] = []
        for attempt in range(1, MAX_ATTEMPTS + 1):
            job = self.look(task.submission_id(attempt, clear_number))
            if job is None:
                break
            found.append(job)
        return found

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        *,
        try_number: int,
        env_vars: Mapping[str, str],
        num_cpus: float,
        num_gpus: float = 0.0,
        run: str = "",
    ) -> None:
        """Submit under exactly this id; an id that is taken raises RayJobsRefused.

        `run`: `run_name` of the DAG run it belongs to.
        """
        runtime_env = {"env_vars": dict(env_vars)} if env_vars else {}
        self._call(
            lambda client: client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id,
                runtime_env=runtime_env,
                metadata={TRY_NUMBER_KEY: str(try_number), RUN_KEY: run},
                entrypoint_num_cpus=num_cpus,
                entrypoint_num_gpus=num_gpus or None,
            )
        )

    def active_of_run(self, run: str) -> list[str]:
        """Submission ids of the jobs of a DAG run (`run_name`) that have not ended."""
        jobs = self._call(lambda client: client.list_jobs()) or []
        return [
            job.submission_id
            for job in jobs
            if (job.metadata or {}).get(RUN_KEY) == run and _plain(job.status) in ACTIVE_STATUSES
        ]

    def logs(self, submission_id: str) -> str:
        """All that the job's driver has printed so far ("" before it runs)."""
        text = self._call(lambda client: client.get_job_logs(submission_id), missing_is_none=True)
        return text or ""

    def stop(self, submission_id: str) -> bool:
        """Ask Ray to stop the job (SIGTERM, then SIGKILL); False if it had ended already."""
        return bool(self._call(lambda client: client.stop_job(submission_id)))

    def _call(
        self, ask: Callable[[Any], Answer], *, missing_is_none: bool = False
    ) -> Answer | None:
        try:
            if self._client is None:
                self._client = self._connect()
            return ask(self._client)
        except OSError as error:  # also what `requests` raises: no connection, timeouts
            raise self._unreachable(error) from error
        except RuntimeError as error:  # how Ray's client reports a status other than 200
            if missing_is_none and "status code 404" in str(error):
                return None
            if "status code 5" in str(error) and "already exists" not in str(error):
                raise self._unreachable(error) from error
            raise RayJobsRefused(
                f"{self.jobs_url}: {error}", hint="read the message; `ray job list` shows the jobs"
            ) from error

    def _connect(self) -> Any:
        if not self.jobs_url:
            raise RayJobsRefused(
                f"{JOBS_URL_VARIABLE} is not set",
                hint=f"export {JOBS_URL_VARIABLE}=http://HOST:PORT",
            )
        # Imported here: at the top, each parse of a DAG file would load Ray (0.6 s, 86 MiB).
        return importlib.import_module(CLIENT_MODULE).BoundedJobClient(self.jobs_url)

    def _unreachable(self, error: Exception) -> RayJobsUnreachable:
        return RayJobsUnreachable(
            f"{self.jobs_url} does not answer: {error}",
            hint=f"is Ray up? curl {self.jobs_url}/api/version",
        )


def _plain(value: Any) -> str | None:
    """Ray gives an enum in one version and its value in another."""
    if value is None:
        return None
    return str(getattr(value, "value", value))
