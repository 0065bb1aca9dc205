"""An Airflow task that is one Ray job: submit or find it, follow it, succeed only if it does.

Blocking for now. Killed with SIGKILL, the operator leaves the job running and its next try
attaches to it; killed politely (a cleared or failed task, a timeout), it stops the job.
"""

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.context import Context

from dags.ray_job.errors import (
    RayJobError,
    RayJobFailed,
    RayJobResultInvalid,
    RayJobsRefused,
    RayJobsUnreachable,
    RayJobTimedOut,
)
from dags.ray_job.hook import RayJobHook
from dags.ray_job.submission import Action, Decision, JobSeen, TaskCoordinates, decide

RESULT_PREFIX = "MOONLARK_RESULT "
MAX_RESULT_CHARACTERS = 64 * 1024
LOG_TAIL_LINES = 40
MAX_STREAMED_CHARACTERS = 4 * 1024 * 1024
MAX_DECISIONS = 5
"""A decision is made again only after a lost race or a stopped predecessor."""
SUBMISSION_ID_KEY = "ray_submission_id"

Answer = TypeVar("Answer")


class RayJobOperator(BaseOperator):
    """Runs `entrypoint` as a Ray job.

    Args:
        entrypoint: a shell command, or (safer with templates) its words, which are quoted.
        env_vars: environment of the job on top of the cluster's.
        entrypoint_num_cpus: what Ray sets aside for the driver; 0, since its tasks do the work
            and a driver that holds a CPU would starve them on a small machine.
        poll_interval_s: between two looks.
        job_timeout_s: the job is stopped and the task fails after this.
        unreachable_limit_s: for how long the Jobs API may be away (a restarting head).
        jobs_url: instead of MOONLARK_RAY_JOBS_URL.

    Returns (XCom): the object in the log's last `MOONLARK_RESULT {...}` line, None without one.
    The submission id is pushed as `ray_submission_id` before waiting.
    """

    template_fields: Sequence[str] = ("entrypoint", "env_vars")

    def __init__(
        self,
        *,
        entrypoint: str | Sequence[Any],
        env_vars: Mapping[str, str] | None = None,
        entrypoint_num_cpus: float = 0.0,
        poll_interval_s: float = 1.0,
        job_timeout_s: float = 4 * 3600.0,
        unreachable_limit_s: float = 120.0,
        jobs_url: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.entrypoint = entrypoint
        self.env_vars = env_vars
        self.entrypoint_num_cpus = entrypoint_num_cpus
        self.poll_interval_s = poll_interval_s
        self.job_timeout_s = job_timeout_s
        self.unreachable_limit_s = unreachable_limit_s
        self.jobs_url = jobs_url
        self._running_id: str | None = None
        self._is_killed = False

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Raises RayJobError (dags/ray_job/errors.py) unless the job ends SUCCEEDED."""
        hook = RayJobHook(self.jobs_url)
        task, try_number = _coordinates(context)
        decision = self._submit_or_find(hook, task, try_number)
        if self._is_killed:  # while it was submitted: the first stop found no job
            self._stop(hook, decision.submission_id)
        context["ti"].xcom_push(key=SUBMISSION_ID_KEY, value=decision.submission_id)
        job = self._follow(hook, decision.submission_id)
        self._running_id = None
        log = hook.logs(decision.submission_id)
        if not job.is_success:
            tail = "\n".join(log.splitlines()[-LOG_TAIL_LINES:])
            raise RayJobFailed(job.submission_id, job.status, job.error_type, job.message, tail)
        return _result(job.submission_id, log)

    def on_kill(self) -> None:
        """Stops the job; Airflow calls it on SIGTERM and on `execution_timeout`."""
        self._is_killed = True
        if self._running_id is not None:
            self._stop(RayJobHook(self.jobs_url), self._running_id)

    def _stop(self, hook: RayJobHook, submission_id: str) -> None:
        self.log.info("Stopping Ray job %s", submission_id)
        try:
            hook.stop(submission_id)
        except RayJobError as error:
            # Nothing above us could act on it; the log must say that the job may still run.
            self.log.error("Ray job %s may still run: %s", submission_id, error)

    def _submit_or_find(self, hook: RayJobHook, task: TaskCoordinates, try_number: int) -> Decision:
        for _ in range(MAX_DECISIONS):
            attempts, earlier = self._patiently(lambda: hook.find_attempts(task))
            decision = decide(task, attempts, earlier, try_number)
            self.log.info("Ray job %s: %s", decision.submission_id, decision.action.value)
            self._running_id = decision.submission_id
            if self._is_killed:
                if decision.action is not Action.SUBMIT:
                    self._stop(hook, decision.submission_id)
                raise RayJobsRefused(
                    f"task {task.task_id} was killed before it followed its job",
                    hint="clear the task to run it again",
                )
            if decision.action is Action.STOP_FIRST:
                hook.stop(decision.submission_id)
                self._follow(hook, decision.submission_id)
            elif decision.action is not Action.SUBMIT or self._submit(hook, decision, try_number):
                return decision
        raise RayJobsRefused(
            f"task {task.task_id}: no decision after {MAX_DECISIONS} looks",
            hint="another operator fights for the same job; `ray job list` shows it",
        )

    def _submit(self, hook: RayJobHook, decision: Decision, try_number: int) -> bool:
        """False if the answer was lost or another operator was first: look again."""
        try:
            hook.submit(
                decision.submission_id,
                self._command(),
                try_number=try_number,
                env_vars=self.env_vars or {},
                num_cpus=self.entrypoint_num_cpus,
            )
        except RayJobsUnreachable as error:
            self.log.warning("Submitting: %s; looking again", error)
            return False
        except RayJobsRefused as error:
            if hook.look(decision.submission_id) is None:
                raise
            self.log.warning("Ray job %s exists already: %s", decision.submission_id, error)
            return False
        return True

    def _command(self) -> str:
        if isinstance(self.entrypoint, str):
            return self.entrypoint
        return shlex.join(str(word) for word in self.entrypoint)

    def _follow(self, hook: RayJobHook, submission_id: str) -> JobSeen:
        """Stream the log until the job is no longer active; the last look."""
        deadline = time.monotonic() + self.job_timeout_s
        shown = 0
        while True:
            job = self._patiently(lambda: hook.look(submission_id))
            if job is None:
                raise RayJobsRefused(
                    f"Ray job {submission_id} is gone: the cluster was restarted or it was deleted",
                    hint="clear the task to run it again",
                )
            shown = self._stream(self._patiently(lambda: hook.logs(submission_id)), shown, job)
            if not job.is_active:
                return job
            if time.monotonic() >= deadline:
                hook.stop(submission_id)
                raise RayJobTimedOut(
                    f"Ray job {submission_id} ran for more than {self.job_timeout_s:.0f} s",
                    hint=f"ray job logs {submission_id}; raise job_timeout_s if it is only slow",
                )
            time.sleep(self.poll_interval_s)

    def _stream(self, log: str, shown: int, job: JobSeen) -> int:
        """Print the whole lines that are new (at the end: all); characters shown so far."""
        end = log.rfind("\n") + 1 if job.is_active else len(log)
        end = min(end, MAX_STREAMED_CHARACTERS)
        for line in log[shown:end].splitlines():
            self.log.info("%s", line)
        if end == MAX_STREAMED_CHARACTERS and shown < end:
            self.log.warning("The log goes on: ray job logs %s", job.submission_id)
        return max(shown, end)

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask until Ray answers, for `unreachable_limit_s` at most."""
        deadline = time.monotonic() + self.unreachable_limit_s
        while True:
            try:
                return ask()
            except RayJobsUnreachable as error:
                if time.monotonic() >= deadline:
                    raise
                self.log.warning("%s; asking again", error)
            time.sleep(self.poll_interval_s)


def _coordinates(context: Context) -> tuple[TaskCoordinates, int]:
    ti = context["ti"]
    # A context older than 3.3 has no clear number; 0 then, as for a run that was never cleared.
    clear_number = getattr(context["dag_run"], "clear_number", None) or 0
    map_index = ti.map_index if ti.map_index is not None else -1
    task = TaskCoordinates(ti.dag_id, ti.run_id, ti.task_id, map_index, clear_number)
    return task, ti.try_number


def _result(submission_id: str, log: str) -> dict[str, Any] | None:
    lines = [line for line in log.splitlines() if line.startswith(RESULT_PREFIX)]
    if not lines:
        return None
    text = lines[-1].removeprefix(RESULT_PREFIX)
    hint = f"ray job logs {submission_id}; the step must print {RESULT_PREFIX}{{...}} on one line"
    if len(text) > MAX_RESULT_CHARACTERS:
        raise RayJobResultInvalid(
            f"Ray job {submission_id}: result of {len(text)} characters", hint=hint
        )
    try:
        result = json.loads(text)
    except ValueError as error:
        raise RayJobResultInvalid(
            f"Ray job {submission_id}: result is no JSON: {error}", hint=hint
        ) from error
    if not isinstance(result, dict):
        raise RayJobResultInvalid(f"Ray job {submission_id}: result is no object", hint=hint)
    return result
