"""RayJobOperator on a real cluster: one job whatever is killed, and only success is success."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk.exceptions import TaskDeferred

from dags.ray_job.errors import (
    RayJobFailed,
    RayJobLost,
    RayJobResultInvalid,
    RayJobsUnreachable,
    RayJobTimedOut,
)
from dags.ray_job.hook import RayJobHook
from dags.ray_job.operator import SUBMISSION_ID_KEY, RayJobOperator
from dags.ray_job.submission import TaskCoordinates
from infra.stack.ports import find_free_run
from infra.stack.ray_cluster import LocalRay
from tests.integration.operator_process import (
    DAG_ID,
    TaskInstance,
    context_for,
    make_operator,
    run_deferred,
)

PROJECT_ROOT = Path(__file__).parents[2]
WAIT_S = 120.0


@pytest.fixture
def hook(local_ray: LocalRay, monkeypatch: pytest.MonkeyPatch) -> RayJobHook:
    for name, value in local_ray.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", local_ray.jobs_url)
    return RayJobHook()


@pytest.fixture
def ti() -> TaskInstance:
    return TaskInstance(run_id=f"run-{uuid.uuid4()}")


def coordinates(ti: TaskInstance, clear_number: int = 0) -> TaskCoordinates:
    return TaskCoordinates(DAG_ID, ti.run_id, ti.task_id, ti.map_index, clear_number)


def jobs_of(hook: RayJobHook, ti: TaskInstance) -> list[str]:
    """Statuses of all jobs that exist for the task, by Ray's own list."""
    stem = coordinates(ti).submission_id(1).removesuffix("-c0-a1")
    listed = hook._call(lambda client: client.list_jobs()) or []
    return sorted(
        str(job.status.value) for job in listed if (job.submission_id or "").startswith(stem)
    )


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:.0f} s: {what}"
        time.sleep(0.1)


def waiting_code(folder: Path) -> str:
    """A job that says that it runs, and ends well once it is released."""
    return (
        "import os, pathlib, time\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "(folder / f'pid-{os.getpid()}').touch()\n"
        "while not (folder / 'release').exists(): time.sleep(0.1)\n"
        "print('MOONLARK_RESULT {\"released\": true}')\n"
    )


def running_pids(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


def start_operator(local_ray: LocalRay, ti: TaskInstance, code: str) -> "subprocess.Popen[bytes]":
    asked = {"run_id": ti.run_id, "try_number": ti.try_number, "code": code}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.operator_process", json.dumps(asked)],
        env={**os.environ, **local_ray.env},
        cwd=PROJECT_ROOT,
    )


def test_success_gives_the_last_result_and_pushes_the_id(
    hook: RayJobHook, ti: TaskInstance
) -> None:
    code = (
        "print('MOONLARK_RESULT {\"n\": 1}'); print('a line of the job'); "
        "print('MOONLARK_RESULT {\"n\": 2}')"
    )
    operator = make_operator(code)
    assert operator.execute(context_for(ti)) == {"n": 2}
    assert ti.pushed == {SUBMISSION_ID_KEY: coordinates(ti).submission_id(1)}
    assert jobs_of(hook, ti) == ["SUCCEEDED"]


def test_failure_raises_with_the_end_of_the_log_and_the_next_command(
    hook: RayJobHook, ti: TaskInstance
) -> None:
    operator = make_operator("print('it was the butler'); raise SystemExit(3)")
    with pytest.raises(RayJobFailed, match="it was the butler") as caught:
        operator.execute(context_for(ti))
    assert caught.value.status == "FAILED"
    assert caught.value.error_type == "JOB_ENTRYPOINT_COMMAND_ERROR"
    assert f"ray job logs {coordinates(ti).submission_id(1)}" in caught.value.hint


def test_a_job_that_failed_before_the_first_look_raises_and_is_not_run_again(
    hook: RayJobHook, ti: TaskInstance
) -> None:
    submission_id = coordinates(ti).submission_id(1)
    hook.submit(submission_id, "exit 1", try_number=1, env_vars={}, num_cpus=0)
    wait_for(lambda: jobs_of(hook, ti) == ["FAILED"], "the job to fail")
    with pytest.raises(RayJobFailed):
        make_operator("print('would succeed')").execute(context_for(ti))
    assert jobs_of(hook, ti) == ["FAILED"]


def test_the_retry_of_a_failed_try_runs_once_more(hook: RayJobHook, ti: TaskInstance) -> None:
    with pytest.raises(RayJobFailed):
        make_operator("raise SystemExit(1)").execute(context_for(ti))
    ti.try_number = 2
    make_operator("print('better')").execute(context_for(ti))
    assert jobs_of(hook, ti) == ["FAILED", "SUCCEEDED"]


def deferrable(code: str, **options: Any) -> RayJobOperator:
    return make_operator(code, deferrable=True, **options)


def test_a_deferred_task_holds_no_worker_and_ends_as_a_blocking_one_does(
    hook: RayJobHook, ti: TaskInstance, tmp_path: Path
) -> None:
    operator = deferrable(waiting_code(tmp_path))
    threading.Timer(3.0, (tmp_path / "release").touch).start()
    result, deferrals = run_deferred(operator, context_for(ti))
    assert (result, deferrals) == ({"released": True}, 1)
    assert ti.pushed == {SUBMISSION_ID_KEY: coordinates(ti).submission_id(1)}
    assert jobs_of(hook, ti) == ["SUCCEEDED"]


def test_a_deferred_task_fails_with_its_job_and_the_end_of_its_log(
    hook: RayJobHook, ti: TaskInstance
) -> None:
    code = "import time; time.sleep(2); print('it was the butler'); raise SystemExit(75)"
    with pytest.raises(RayJobFailed, match="it was the butler") as caught:
        run_deferred(deferrable(code), context_for(ti))
    assert caught.value.is_infrastructure, "75 says that nothing is wrong with the work"


def test_after_the_loss_of_a_triggerer_the_next_try_defers_to_the_one_job(
    hook: RayJobHook, ti: TaskInstance, tmp_path: Path
) -> None:
    with pytest.raises(TaskDeferred):
        deferrable(waiting_code(tmp_path)).execute(context_for(ti))
    wait_for(lambda: running_pids(tmp_path), "the job to run")
    ti.try_number = 2
    (tmp_path / "release").touch()
    result, _ = run_deferred(deferrable(waiting_code(tmp_path)), context_for(ti))
    assert result == {"released": True}
    assert (jobs_of(hook, ti), len(running_pids(tmp_path))) == (["SUCCEEDED"], 1)


def test_a_deferred_task_that_runs_too_long_is_stopped(
    hook: RayJobHook, ti: TaskInstance, tmp_path: Path
) -> None:
    with pytest.raises(RayJobTimedOut):
        run_deferred(deferrable(waiting_code(tmp_path), job_timeout_s=4.0), context_for(ti))
    wait_for(lambda: jobs_of(hook, ti) == ["STOPPED"], "the job to be stopped")


def test_a_cleared_task_runs_again_and_a_repeated_look_does_not(
    hook: RayJobHook, ti: TaskInstance
) -> None:
    operator = make_operator("print('MOONLARK_RESULT {}')")
    assert operator.execute(context_for(ti)) == {}
    assert operator.execute(context_for(ti)) == {}
    assert jobs_of(hook, ti) == ["SUCCEEDED"]
    operator.execute(context_for(ti, clear_number=1))
    assert jobs_of(hook, ti) == ["SUCCEEDED", "SUCCEEDED"]


def test_after_kill_9_of_the_operator_the_next_try_attaches_to_the_one_job(
    hook: RayJobHook, local_ray: LocalRay, ti: TaskInstance, tmp_path: Path
) -> None:
    code = waiting_code(tmp_path)
    process = start_operator(local_ray, ti, code)
    try:
        wait_for(lambda: running_pids(tmp_path), "the job to run")
    finally:
        process.kill()
        process.wait(timeout=60)
    assert jobs_of(hook, ti) == ["RUNNING"]
    ti.try_number = 2
    threading.Timer(1.0, (tmp_path / "release").touch).start()
    assert make_operator(code).execute(context_for(ti)) == {"released": True}
    assert jobs_of(hook, ti) == ["SUCCEEDED"]
    assert len(running_pids(tmp_path)) == 1


def test_sigterm_to_the_operator_cancels_the_job(
    hook: RayJobHook, local_ray: LocalRay, ti: TaskInstance, tmp_path: Path
) -> None:
    process = start_operator(local_ray, ti, waiting_code(tmp_path))
    try:
        wait_for(lambda: running_pids(tmp_path), "the job to run")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=180) == 1, "the task fails: its job was stopped"
    finally:
        process.kill()
    wait_for(lambda: jobs_of(hook, ti) == ["STOPPED"], "the job to be stopped")
    (pid,) = running_pids(tmp_path)
    wait_for(lambda: not psutil.pid_exists(pid), "the driver to end")


def test_a_job_that_somebody_stopped_is_no_success(
    hook: RayJobHook, ti: TaskInstance, tmp_path: Path
) -> None:
    submission_id = coordinates(ti).submission_id(1)

    def stop_when_running() -> None:
        wait_for(lambda: running_pids(tmp_path), "the job to run")
        hook.stop(submission_id)

    stopper = threading.Thread(target=stop_when_running)
    stopper.start()
    with pytest.raises(RayJobFailed) as caught:
        make_operator(waiting_code(tmp_path)).execute(context_for(ti))
    stopper.join(timeout=WAIT_S)
    assert caught.value.status == "STOPPED"


def test_a_job_that_runs_too_long_is_stopped(
    hook: RayJobHook, ti: TaskInstance, tmp_path: Path
) -> None:
    operator = make_operator(waiting_code(tmp_path), job_timeout_s=4.0)
    with pytest.raises(RayJobTimedOut):
        operator.execute(context_for(ti))
    wait_for(lambda: jobs_of(hook, ti) == ["STOPPED"], "the job to be stopped")


def test_a_broken_result_line_fails_the_task(hook: RayJobHook, ti: TaskInstance) -> None:
    with pytest.raises(RayJobResultInvalid):
        make_operator("print('MOONLARK_RESULT {oops')").execute(context_for(ti))


def test_a_jobs_api_that_is_away_is_waited_for_and_then_named(
    hook: RayJobHook, ti: TaskInstance
) -> None:
    url = f"http://127.0.0.1:{find_free_run(1)}"
    operator = make_operator("pass", jobs_url=url, unreachable_limit_s=1.0)
    with pytest.raises(RayJobsUnreachable, match=url):
        operator.execute(context_for(ti))


def test_words_reach_the_job_as_they_are(hook: RayJobHook, ti: TaskInstance) -> None:
    operator = make_operator(
        "import json, sys; print('MOONLARK_RESULT', json.dumps({'argv': sys.argv[1:]}))"
    )
    operator.entrypoint = [*operator.entrypoint, "a; exit 1", "$HOME", "it's"]
    assert operator.execute(context_for(ti)) == {"argv": ["a; exit 1", "$HOME", "it's"]}


def test_a_job_that_died_with_the_head_is_submitted_again_by_the_next_try(
    hook: RayJobHook, local_ray: LocalRay, ti: TaskInstance, tmp_path: Path
) -> None:
    def lose_the_head() -> None:
        wait_for(lambda: running_pids(tmp_path), "the job to run")
        local_ray.kill_head()
        local_ray.restart_head()  # it knows nothing of before

    loser = threading.Thread(target=lose_the_head)
    loser.start()
    with pytest.raises(RayJobLost) as caught:
        run_deferred(deferrable(waiting_code(tmp_path)), context_for(ti))
    loser.join(timeout=WAIT_S)
    assert caught.value.is_infrastructure, "Airflow tries again"
    (pid,) = running_pids(tmp_path)
    assert not psutil.pid_exists(pid), "its driver died with the head"
    (tmp_path / "release").touch()
    ti.try_number = 2
    result, _ = run_deferred(deferrable(waiting_code(tmp_path)), context_for(ti))
    assert result == {"released": True}
    assert (jobs_of(hook, ti), len(running_pids(tmp_path))) == (["SUCCEEDED"], 2)
