"""Which Ray job belongs to an Airflow task, and what to do about it. Pure: no Airflow, no Ray.

The submission id is computed, not stored, so that nothing is lost between submitting and storing
it: whoever comes after a killed operator computes the same id and finds the job. Ray never takes
an id twice, not even after deleting the job, hence the attempt ordinal; a cleared task shall run
again although its job succeeded, hence the clear number.

    <dag>-<task>-<digest of dag, run, task, map index>-c<clear number>-a<attempt ordinal>
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

ACTIVE_STATUSES = frozenset({"PENDING", "RUNNING"})
SUCCESS_STATUSES = frozenset({"SUCCEEDED"})
ENDED_BADLY_STATUSES = frozenset({"FAILED", "STOPPED"})
OWN_ERROR_TYPES = frozenset({"JOB_ENTRYPOINT_COMMAND_ERROR", "JOB_ENTRYPOINT_COMMAND_START_ERROR"})
"""Ray's error types for an entrypoint that ended badly by itself; all others are the cluster's."""
TRY_AGAIN_EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: a job says with it that nothing is wrong with its own work."""
FIRST_SIGNAL_EXIT_CODE = 128
"""From here on a shell reports that a signal ended the command: out of memory, a lost node."""
MAX_ATTEMPTS = 20
"""Attempts per clear number; Airflow's `retries` stays far below it."""
MAX_NAME_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class TaskCoordinates:
    """What names one piece of work in Airflow, across its tries."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    clear_number: int

    def submission_id(self, attempt: int, clear_number: int | None = None) -> str:
        """The id of one attempt (from 1), under this clear number or an earlier one."""
        clear = self.clear_number if clear_number is None else clear_number
        work = "\0".join([self.dag_id, self.run_id, self.task_id, str(self.map_index)])
        digest = hashlib.blake2b(work.encode(), digest_size=8).hexdigest()
        return f"{_slug(self.dag_id)}-{_slug(self.task_id)}-{digest}-c{clear}-a{attempt}"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name)[:MAX_NAME_CHARACTERS]


@dataclass(frozen=True, slots=True)
class JobSeen:
    """One look at a job. `try_number` is the Airflow try that submitted it (job metadata)."""

    submission_id: str
    status: str
    try_number: int | None = None
    message: str = ""
    error_type: str | None = None
    exit_code: int | None = None

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE_STATUSES

    @property
    def is_success(self) -> bool:
        return self.status in SUCCESS_STATUSES

    @property
    def failed_by_infrastructure(self) -> bool:
        """Whether the same job may well succeed: Ray lost it, a signal ended it, or it says so.

        Someone who stopped it meant it, and an unknown status says nothing.
        """
        if self.status != "FAILED":
            return False
        if self.error_type is not None and self.error_type not in OWN_ERROR_TYPES:
            return True
        code = self.exit_code
        if code is None:
            return False
        return code < 0 or code == TRY_AGAIN_EXIT_CODE or code >= FIRST_SIGNAL_EXIT_CODE


class Action(Enum):
    """What to do with what was found."""

    SUBMIT = "submit"
    ATTACH = "attach"
    DONE = "done"
    FAIL = "fail"
    STOP_FIRST = "stop_first"


@dataclass(frozen=True, slots=True)
class Decision:
    """`submission_id` is the job to submit, to wait for, to read, to report or to stop."""

    action: Action
    submission_id: str


def decide(
    task: TaskCoordinates,
    attempts: Sequence[JobSeen],
    earlier_clears: Sequence[JobSeen],
    try_number: int,
) -> Decision:
    """The one decision, for a first look, a retry, a cleared task and a lost race alike.

    Args:
        attempts: what was found under the task's clear number, in order of the attempt ordinal.
        earlier_clears: what was found under earlier clear numbers.
        try_number: Airflow's try, from 1.

    A job that ended badly fails the try that submitted it, also when it had ended by the first
    look. A later try is Airflow's retry: it submits the next attempt. An unknown status is never
    taken for success, and never submitted over.
    """
    for job in earlier_clears:
        if job.is_active:
            # Its operator was killed and the task cleared: two jobs must not run side by side.
            return Decision(Action.STOP_FIRST, job.submission_id)
    if not attempts:
        return Decision(Action.SUBMIT, task.submission_id(1))
    last = attempts[-1]
    if last.is_active:
        return Decision(Action.ATTACH, last.submission_id)
    if last.is_success:
        return Decision(Action.DONE, last.submission_id)
    is_ours = last.try_number is None or last.try_number >= try_number
    if last.status not in ENDED_BADLY_STATUSES or is_ours or len(attempts) >= MAX_ATTEMPTS:
        return Decision(Action.FAIL, last.submission_id)
    return Decision(Action.SUBMIT, task.submission_id(len(attempts) + 1))
