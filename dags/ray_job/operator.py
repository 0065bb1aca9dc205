"""An Airflow task that is one Ray job: submit or find it, wait for it, succeed only if it does.

Waiting is deferred to the triggerer or blocks a worker; what is submitted, found again and
reported is the same. Killed with SIGKILL, whoever waited leaves the job running and the next try
attaches to it; killed politely (a cleared or failed task, a timeout), it stops the job.
"""

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from airflow.sdk import BaseOperator, ResumableJobMixin
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import TaskDeferred

from dags.ray_job.errors import (
    RayJobError,
    RayJobFailed,
    RayJobLost,
    RayJobResultInvalid,
    RayJobsRefused,
    RayJobsUnreachable,
    RayJobTimedOut,
)
from dags.ray_job.hook import RayJobHook, run_name
from dags.ray_job.job_log import new_lines
from dags.ray_job.retries import InfrastructureRetries
from dags.ray_job.submission import (
    ACTIVE_STATUSES,
    SUCCESS_STATUSES,
    Action,
    Decision,
    JobSeen,
    TaskCoordinates,
    decide,
)
from dags.ray_job.trigger import RayJobTrigger

RESULT_PREFIX = "MOONLARK_RESULT "
MAX_RESULT_CHARACTERS = 64 * 1024
LOG_TAIL_LINES = 40
MAX_DECISIONS = 5
"""A decision is made again only after a lost race or a stopped predecessor."""
SUBMISSION_ID_KEY = "ray_submission_id"
GONE = "GONE"
"""Status of a job that Ray does not know (any more): neither active nor a success."""

Answer = TypeVar("Answer")


class RayJobOperator(ResumableJobMixin, BaseOperator):
    """Runs `entrypoint` as a Ray job.

    Args:
        entrypoint: a shell command, or (safer with templates) its words, which are quoted.
        env_vars: environment of the job on top of the cluster's; what is empty is left out.
        deferrable: wait in the triggerer; False: in the worker.
        entrypoint_num_cpus: what Ray sets aside for the driver; 0, since its tasks do the work
            and a driver that holds a CPU would starve them on a small machine.
        entrypoint_num_gpus: as above; above 0 only where the driver itself computes on a GPU.
        poll_interval_s: between two looks.
        job_timeout_s: the job is stopped and the task fails after this.
        unreachable_limit_s: for how long the Jobs API may be away (a restarting head).
        jobs_url: instead of MOONLARK_RAY_JOBS_URL.

    Returns (XCom): the object in the log's last `MOONLARK_RESULT {...}` line, None without one.
    The submission id is pushed as `ray_submission_id` before waiting, and kept in the task state
    store, from which `ResumableJobMixin` re-attaches; what it cannot know (a kill between
    submitting and storing, a failed try) `decide` finds by the computed id.

    `retries` are for failures of the infrastructure alone, unless a `retry_policy` is given.
    """

    template_fields: Sequence[str] = ("entrypoint", "env_vars")

    def __init__(
        self,
        *,
        entrypoint: str | Sequence[Any],
        env_vars: Mapping[str, str] | None = None,
        deferrable: bool = False,
        entrypoint_num_cpus: float = 0.0,
        entrypoint_num_gpus: float = 0.0,
        poll_interval_s: float = 1.0,
        job_timeout_s: float = 4 * 3600.0,
        unreachable_limit_s: float = 120.0,
        jobs_url: str | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("retry_policy") is None:
            kwargs["retry_policy"] = InfrastructureRetries()
        super().__init__(**kwargs)
        self.entrypoint = entrypoint
        self.env_vars = env_vars
        self.deferrable = deferrable
        self.entrypoint_num_cpus = entrypoint_num_cpus
        self.entrypoint_num_gpus = entrypoint_num_gpus
        self.poll_interval_s = poll_interval_s
        self.job_timeout_s = job_timeout_s
        self.unreachable_limit_s = unreachable_limit_s
        self.jobs_url = jobs_url
        self._running_id: str | None = None
        self._is_killed = False
        self._results: dict[str, dict[str, Any] | None] = {}

    def execute(self, context: Context) -> Any:
        """Raises RayJobError (dags/ray_job/errors.py) unless the job ends SUCCEEDED."""
        task, _ = _coordinates(context)
        # A key for each clear: the mixin would take the job of a task that was cleared for done.
        self.external_id_key = f"{SUBMISSION_ID_KEY}_c{task.clear_number}"
        return self.execute_resumable(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """The trigger fired: look for oneself. Raises as `execute` does.

        All that is needed comes with the event: `airflow dags test` hands on nothing else.
        """
        submission_id = self._running_id = event["submission_id"]
        hook = RayJobHook(self.jobs_url)
        if event["why"] == "unreachable":
            hook.look(submission_id)  # the patience is used up: it answers now, or the try fails
        if event["why"] == "refused":
            self.deferrable = False  # the triggerer may not ask, whoever defers to it again
        return self._wait(hook, submission_id, event["deadline_at_s"], event["shown"])

    def on_kill(self) -> None:
        """Stops the job; Airflow calls it on SIGTERM and on `execution_timeout`."""
        self._is_killed = True
        if self._running_id is not None:
            self._stop(RayJobHook(self.jobs_url), self._running_id)

    # What ResumableJobMixin asks for; it calls these in the order in which they stand.

    def get_job_status(self, external_id: Any, context: Context) -> str:
        self._running_id = str(external_id)
        hook = RayJobHook(self.jobs_url)
        job = self._patiently(lambda: hook.look(str(external_id)))
        return GONE if job is None else job.status

    def is_job_active(self, status: str) -> bool:
        return status in ACTIVE_STATUSES

    def is_job_succeeded(self, status: str) -> bool:
        return status in SUCCESS_STATUSES

    def submit_job(self, context: Context) -> str:
        """The id of the job that `decide` chose: a new one, or one that is there already."""
        task, try_number = _coordinates(context)
        hook = RayJobHook(self.jobs_url)
        return self._submit_or_find(hook, task, try_number).submission_id

    def poll_until_complete(self, external_id: Any, context: Context) -> Any:
        """The job's result, for on re-attaching the mixin returns what this returns."""
        submission_id = self._running_id = str(external_id)
        hook = RayJobHook(self.jobs_url)
        if self._is_killed:  # while it was submitted: the first stop found no job
            self._stop(hook, submission_id)
        context["ti"].xcom_push(key=SUBMISSION_ID_KEY, value=submission_id)
        return self._wait(hook, submission_id, time.time() + self.job_timeout_s, 0)

    def get_job_result(self, external_id: Any, context: Context) -> Any:
        submission_id = str(external_id)
        if submission_id not in self._results:
            self.poll_until_complete(external_id, context)
        return self._results[submission_id]

    def _wait(self, hook: RayJobHook, submission_id: str, deadline_at_s: float, shown: int) -> Any:
        """The result of the job when it has ended; deferred until then, or here."""
        if self.deferrable and not self._is_killed:
            job = self._patiently(lambda: hook.look(submission_id))
            if job is not None and job.is_active and time.time() < deadline_at_s:
                self._defer(submission_id, deadline_at_s, shown)
        job, log = self._follow(hook, submission_id, deadline_at_s, shown)
        self._running_id = None
        if not job.is_success:
            tail = "\n".join(log.splitlines()[-LOG_TAIL_LINES:])
            raise RayJobFailed(job, tail, was_killed=self._is_killed)
        self._results[submission_id] = _result(submission_id, log)
        return self._results[submission_id]

    def _defer(self, submission_id: str, deadline_at_s: float, shown: int) -> None:
        # Not `timeout`: Airflow's would end the task and leave the job running.
        raise TaskDeferred(
            trigger=RayJobTrigger(
                submission_id=submission_id,
                jobs_url=self.jobs_url,
                poll_interval_s=self.poll_interval_s,
                deadline_at_s=deadline_at_s,
                unreachable_limit_s=self.unreachable_limit_s,
                shown=shown,
            ),
            method_name=self.execute_complete.__name__,
        )

    def _stop(self, hook: RayJobHook, submission_id: str) -> None:
        self.log.info("Stopping Ray job %s", submission_id)
        try:
            hook.stop(submission_id)
        except RayJobError as error:
            # Nothing above us could act on it; the log must say that the job may still run.
            self.log.error("Ray job %s may still run: %s", submission_id, error)

    def _submit_or_find(self, hook: RayJobHook, task: TaskCoordinates, try_number: int) -> Decision:
        for _ in range(MAX_DECISIONS):
            # Looked again after each silence: an answer that was lost may have been to a submit,
            # and a head that is starting answers looks before it takes jobs.
            decision = self._patiently(lambda: self._act(hook, task, try_number))
            if decision is not None:
                return decision
        raise RayJobsRefused(
            f"task {task.task_id}: no decision after {MAX_DECISIONS} looks",
            hint="another operator fights for the same job; `ray job list` shows it",
        )

    def _act(self, hook: RayJobHook, task: TaskCoordinates, try_number: int) -> Decision | None:
        """Look, decide and do it; None: look again. Raises RayJobsUnreachable where Ray is away."""
        attempts, earlier = hook.find_attempts(task)
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
            self._follow(hook, decision.submission_id, time.time() + self.job_timeout_s, 0)
            return None
        if decision.action is Action.SUBMIT and not self._submit(hook, task, decision, try_number):
            return None
        return decision

    def _submit(
        self, hook: RayJobHook, task: TaskCoordinates, decision: Decision, try_number: int
    ) -> bool:
        """False if another operator was first."""
        try:
            hook.submit(
                decision.submission_id,
                self._command(),
                try_number=try_number,
                env_vars={name: value for name, value in (self.env_vars or {}).items() if value},
                num_cpus=self.entrypoint_num_cpus,
                num_gpus=self.entrypoint_num_gpus,
                run=run_name(task.dag_id, task.run_id),
            )
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

    def _follow(
        self, hook: RayJobHook, submission_id: str, deadline_at_s: float, shown: int
    ) -> tuple[JobSeen, str]:
        """Stream the log until the job is no longer active; the last look, and the whole log."""
        while True:
            job = self._patiently(lambda: hook.look(submission_id))
            if job is None:
                raise RayJobLost(
                    f"Ray job {submission_id} is gone: the cluster was replaced or it was deleted",
                    hint="clear the task to run it again",
                )
            log = self._patiently(lambda: hook.logs(submission_id))
            lines, shown = new_lines(log, shown, job.is_active, submission_id)
            for line in lines:
                self.log.info("%s", line)
            if not job.is_active:
                return job, log
            if time.time() >= deadline_at_s:
                hook.stop(submission_id)
                raise RayJobTimedOut(
                    f"Ray job {submission_id} ran for more than {self.job_timeout_s:.0f} s",
                    hint=f"ray job logs {submission_id}; raise job_timeout_s if it is only slow",
                )
            time.sleep(self.poll_interval_s)

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
