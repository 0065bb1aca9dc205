"""Waits for a Ray job in the triggerer, so that no worker is held while a step runs for hours.

The triggerer imports this by name and does not look into the DAG folder: the project must be
installed there. Ray's client blocks, so each request runs in a thread; the event loop, which all
deferred tasks share, only ever sleeps. What the trigger says is a hint: the task looks itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from dags.ray_job.errors import RayJobError, RayJobsUnreachable
from dags.ray_job.hook import RayJobHook
from dags.ray_job.job_log import new_lines

LOG_EVERY_S = 5.0
"""Between two reads of a running job's log: each one transfers all of it."""

Answer = TypeVar("Answer")


class RayJobTrigger(BaseTrigger):
    """Fires once: when the job is no longer active, is out of time, or cannot be seen for long.

    Args:
        deadline_at_s: wall clock (seconds since 1970); it outlives the triggerer.
        shown: characters of the log that the task has printed already.

    Killed by a user's act on the task (mark failed, clear), it stops the job. A triggerer that is
    stopped, restarted or killed leaves the job alone: another one goes on.
    """

    def __init__(
        self,
        *,
        submission_id: str,
        jobs_url: str | None,
        poll_interval_s: float,
        deadline_at_s: float,
        unreachable_limit_s: float,
        shown: int = 0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.submission_id = submission_id
        self.jobs_url = jobs_url
        self.poll_interval_s = poll_interval_s
        self.deadline_at_s = deadline_at_s
        self.unreachable_limit_s = unreachable_limit_s
        self.shown = shown
        self._hook = RayJobHook(jobs_url)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "dags.ray_job.trigger.RayJobTrigger",
            {
                "submission_id": self.submission_id,
                "jobs_url": self.jobs_url,
                "poll_interval_s": self.poll_interval_s,
                "deadline_at_s": self.deadline_at_s,
                "unreachable_limit_s": self.unreachable_limit_s,
                "shown": self.shown,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The event is `{"why": "ended" | "deadline" | "unreachable" | "refused", "shown": n}`,
        with the trigger's own `submission_id` and `deadline_at_s`."""
        why = await self._until_something_happens()
        event = {
            "why": why,
            "shown": self.shown,
            "submission_id": self.submission_id,
            "deadline_at_s": self.deadline_at_s,
        }
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _until_something_happens(self) -> str:
        seen_at_s = log_read_at_s = time.monotonic()
        while time.time() < self.deadline_at_s:
            try:
                job = await _in_thread(lambda: self._hook.look(self.submission_id))
                now_s = seen_at_s = time.monotonic()
                is_active = job is not None and job.is_active
                if job is not None and (not is_active or now_s - log_read_at_s >= LOG_EVERY_S):
                    await self._stream(is_active)
                    log_read_at_s = now_s
                if not is_active:
                    return "ended"
            except RayJobsUnreachable as error:
                self.log.warning("%s; asking again", error)
                if time.monotonic() - seen_at_s >= self.unreachable_limit_s:
                    return "unreachable"
            except RayJobError as error:
                self.log.error("%s", error)
                return "refused"
            await asyncio.sleep(self.poll_interval_s)
        return "deadline"

    async def _stream(self, is_active: bool) -> None:
        log = await _in_thread(lambda: self._hook.logs(self.submission_id))
        lines, self.shown = new_lines(log, self.shown, is_active, self.submission_id)
        for line in lines:
            self.log.info("%s", line)

    async def on_kill(self) -> None:
        """Stops the job; Airflow calls it when a user marks the deferred task or clears it."""
        self.log.info("Stopping Ray job %s", self.submission_id)
        try:
            await _in_thread(lambda: self._hook.stop(self.submission_id))
        except RayJobError as error:
            # Nothing above us could act on it; the log must say that the job may still run.
            self.log.error("Ray job %s may still run: %s", self.submission_id, error)


async def _in_thread(ask: Callable[[], Answer]) -> Answer:
    return await asyncio.to_thread(ask)
