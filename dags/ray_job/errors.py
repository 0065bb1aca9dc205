"""Errors of Ray jobs under Airflow; any of them fails the task.

RayJobError
├── RayJobsUnreachable   the Jobs API does not answer (a restarting head: worth another look)
├── RayJobsRefused       the Jobs API answered with an error
├── RayJobFailed         the job ended, and not with SUCCEEDED
├── RayJobTimedOut       the job did not end in time and was stopped
└── RayJobResultInvalid  the job succeeded but its result line is no JSON object, or too big
"""


class RayJobError(Exception):
    """A failure of a Ray job; `hint` names the next command."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message} (next: {hint})")
        self.hint = hint


class RayJobsUnreachable(RayJobError):
    """The Jobs API does not answer."""


class RayJobsRefused(RayJobError):
    """The Jobs API answered with an error."""


class RayJobFailed(RayJobError):
    """The job ended, and not with SUCCEEDED. Carries submission id, status and error type."""

    def __init__(
        self, submission_id: str, status: str, error_type: str | None, message: str, log_tail: str
    ) -> None:
        self.submission_id = submission_id
        self.status = status
        self.error_type = error_type
        kind = f", {error_type}" if error_type else ""
        # Ray's message repeats up to 20,000 characters of the log.
        message = message.partition(", last available logs")[0]
        super().__init__(
            f"Ray job {submission_id} ended {status}{kind}: {message}\n"
            f"--- end of its log ---\n{log_tail}\n---",
            hint=f"ray job logs {submission_id}, then clear the task to run it again",
        )


class RayJobTimedOut(RayJobError):
    """The job did not end in time and was stopped."""


class RayJobResultInvalid(RayJobError):
    """The job succeeded, but its result line is no JSON object, or too big."""
