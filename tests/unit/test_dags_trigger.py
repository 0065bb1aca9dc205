"""The trigger waits without holding up the other tasks of its event loop, and says what it saw."""

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="mlk-airflow-"))

from airflow.sdk.module_loading import import_string
from airflow.sdk.serde import deserialize, serialize

from dags.ray_job import job_log
from dags.ray_job.errors import RayJobsRefused, RayJobsUnreachable
from dags.ray_job.hook import RayJobHook
from dags.ray_job.submission import JobSeen
from dags.ray_job.trigger import RayJobTrigger

Look = Callable[[], JobSeen | None]


class Cluster(RayJobHook):
    """Answers by a function."""

    def __init__(self, look: Look, log: str = "") -> None:
        super().__init__("http://nowhere")
        self._look, self._log = look, log
        self.stopped: list[str] = []

    def look(self, submission_id: str) -> JobSeen | None:
        return self._look()

    def logs(self, submission_id: str) -> str:
        return self._log

    def stop(self, submission_id: str) -> bool:
        self.stopped.append(submission_id)
        return True


def trigger_on(cluster: Cluster, **options: Any) -> RayJobTrigger:
    told = {"poll_interval_s": 0.01, "deadline_at_s": time.time() + 60, "unreachable_limit_s": 0.05}
    trigger = RayJobTrigger(submission_id="j", jobs_url=None, **{**told, **options})
    trigger._hook = cluster
    return trigger


async def first_event(trigger: RayJobTrigger) -> Any:
    async for event in trigger.run():
        return event.payload


def raising(error: Exception) -> Look:
    def look() -> JobSeen | None:
        raise error

    return look


@pytest.mark.parametrize(
    ("look", "options", "why"),
    [
        (lambda: JobSeen("j", "SUCCEEDED"), {}, "ended"),
        (lambda: JobSeen("j", "FAILED"), {}, "ended"),
        (lambda: JobSeen("j", "NEVER HEARD OF"), {}, "ended"),
        (lambda: None, {}, "ended"),
        (lambda: JobSeen("j", "RUNNING"), {"deadline_at_s": time.time()}, "deadline"),
        (raising(RayJobsUnreachable("away", hint="")), {}, "unreachable"),
        (raising(RayJobsRefused("no", hint="")), {}, "refused"),
    ],
)
def test_it_fires_once_for_whatever_ends_the_wait(look: Look, options: Any, why: str) -> None:
    assert asyncio.run(first_event(trigger_on(Cluster(look), **options)))["why"] == why


def test_an_outage_shorter_than_the_limit_is_waited_out() -> None:
    answers = iter([JobSeen("j", "RUNNING"), None, None, JobSeen("j", "SUCCEEDED")])

    def look() -> JobSeen | None:
        job = next(answers)
        if job is None:
            raise RayJobsUnreachable("away", hint="")
        return job

    event = asyncio.run(first_event(trigger_on(Cluster(look), unreachable_limit_s=30.0)))
    assert event["why"] == "ended"


def test_a_hanging_head_holds_up_no_other_task_of_the_loop() -> None:
    released = threading.Event()

    def hangs() -> JobSeen | None:
        assert released.wait(30)
        return JobSeen("j", "SUCCEEDED")

    async def both() -> str:
        waiting = asyncio.create_task(first_event(trigger_on(Cluster(hangs))))
        for _ in range(100):  # a loop that is blocked never comes to the release
            await asyncio.sleep(0)
        assert not waiting.done()
        released.set()
        return str((await waiting)["why"])

    assert asyncio.run(both()) == "ended"


def test_what_airflow_stores_of_it_makes_the_same_trigger_again() -> None:
    path, stored = trigger_on(Cluster(lambda: None), shown=7).serialize()
    again = import_string(path)(**deserialize(serialize(stored)))
    assert again.serialize() == (path, stored)


def test_killed_by_a_user_it_stops_the_job_and_ended_otherwise_it_does_not() -> None:
    cluster = Cluster(lambda: JobSeen("j", "RUNNING"))
    trigger = trigger_on(cluster)

    async def ended_by_the_triggerer() -> None:
        waiting = asyncio.create_task(first_event(trigger))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await trigger.cleanup()

    asyncio.run(ended_by_the_triggerer())
    assert cluster.stopped == []
    asyncio.run(trigger.on_kill())
    assert cluster.stopped == ["j"]


def test_each_line_of_the_log_is_shown_once() -> None:
    lines, shown = job_log.new_lines("one\ntwo\nthr", 0, True, "j")
    assert lines == ["one", "two"]
    assert job_log.new_lines("one\ntwo\nthree", shown, False, "j") == (["three"], 13)


def test_a_log_without_end_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "MAX_STREAMED_CHARACTERS", 8)
    lines, shown = job_log.new_lines("one\ntwo\nthree\n", 0, True, "j")
    assert lines == ["one", "two", "The log goes on: ray job logs j"]
    assert job_log.new_lines("one\ntwo\nthree\n", shown, False, "j") == ([], 8)
