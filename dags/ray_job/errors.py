"""Errors of Ray jobs under Airflow; any of them fails the task.

RayJobError
├── RayJobsUnreachable   the Jobs API does not answer (a restarting head: worth another look)
├── RayJobsRefused       the Jobs API answered with an error
├── RayJobLost           Ray does not know the job any more
├── RayJobFailed         the job ended, and not with SUCCEEDED
├── RayJobTimedOut       the job did not end in time and was stopped
└── RayJobResultInvalid  the job succeeded but its result line is no JSON object, or too big

`is_infrastructure` says whether Airflow's retry is worth it (dags/ray_job/retries.py).
"""

from dags.ray_job.submission import JobSeen


class RayJobError(Exception):
    """A failure of a Ray job; `hint` names the next command."""

    is_infrastructure = False
    """Whether the same again may well succeed. What is wrong with the job itself stays wrong."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message} (next: {hint})")
        self.hint = hint


class RayJobsUnreachable(RayJobError):
    """The Jobs API does not answer."""

    is_infrastructure = True


class RayJobsRefused(RayJobError):
    """The Jobs API answered with an error."""


class RayJobLost(RayJobError):
    """Ray does not know the job any more: its head was replaced, or the job was deleted."""

    is_infrastructure = True


class RayJobFailed(RayJobError):
    """The job ended, and not with SUCCEEDED.

    `was_killed`: Airflow told the operator to stop it, so that the job itself is not to blame.
    """

    def __init__(self, job: JobSeen, log_tail: str, *, was_killed: bool = False) -> None:
        self.submission_id = job.submission_id
        self.status = job.status
        self.error_type = job.error_type
        self.is_infrastructure = was_killed or job.failed_by_infrastructure
        kind = f", {job.error_type}" if job.error_type else ""
        # Ray's message repeats up to 20,000 characters of the log.
        message = job.message.partition(", last available logs")[0]
        super().__init__(
            f"Ray job {job.submission_id} ended {job.status}{kind}: {message}\n"
            f"--- end of its log ---\n{log_tail}\n---",
            hint=f"ray job logs {job.submission_id}, then clear the task to run it again",
        )


class RayJobTimedOut(RayJobError):
    """The job did not end in time and was stopped. Its next try goes on at its last chunk."""

    is_infrastructure = True


class RayJobResultInvalid(RayJobError):
    """The job succeeded, but its result line is no JSON object, or too big."""
