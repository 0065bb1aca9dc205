"""Airflow tries again what the cluster broke, and never what the job itself got wrong."""

import importlib
import os
import tempfile
from typing import Any

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="mlk-airflow-"))

from airflow.sdk import RetryAction

from dags.ray_job.errors import (
    RayJobFailed,
    RayJobLost,
    RayJobResultInvalid,
    RayJobsRefused,
    RayJobsUnreachable,
    RayJobTimedOut,
)
from dags.ray_job.operator import RayJobOperator
from dags.ray_job.retries import InfrastructureRetries
from dags.ray_job.submission import TRY_AGAIN_EXIT_CODE, JobSeen
from sql.errors import StoreBusy

OWN = "JOB_ENTRYPOINT_COMMAND_ERROR"


def failed(status: str, error_type: str | None, exit_code: int | None) -> RayJobFailed:
    return RayJobFailed(JobSeen("j", status, 1, "", error_type, exit_code), "")


def decided(error: BaseException) -> RetryAction:
    return InfrastructureRetries().evaluate(error, 1, 3).action


@pytest.mark.parametrize(
    "error",
    [
        RayJobsUnreachable("away", hint="wait"),
        RayJobLost("gone", hint="clear"),
        RayJobTimedOut("late", hint="look"),
        failed("FAILED", "JOB_SUPERVISOR_ACTOR_DIED", None),
        failed("FAILED", "RUNTIME_ENV_SETUP_FAILURE", None),
        failed("FAILED", "AN_ERROR_TYPE_OF_TOMORROW", None),
        failed("FAILED", OWN, 75),
        failed("FAILED", OWN, -9),
        failed("FAILED", OWN, 137),
        RayJobFailed(JobSeen("j", "STOPPED", 1), "", was_killed=True),
    ],
    ids=str,
)
def test_what_the_cluster_broke_is_tried_again(error: BaseException) -> None:
    assert decided(error) is RetryAction.RETRY


@pytest.mark.parametrize(
    "error",
    [
        failed("FAILED", OWN, 1),
        failed("FAILED", OWN, None),
        failed("FAILED", None, None),
        failed("STOPPED", None, None),
        failed("FINE", None, None),
        RayJobsRefused("no", hint="read"),
        RayJobResultInvalid("no JSON", hint="print it"),
    ],
    ids=str,
)
def test_what_would_fail_again_is_told_at_once(error: BaseException) -> None:
    assert decided(error) is RetryAction.FAIL


def test_jobs_and_tasks_mean_the_same_by_try_again() -> None:
    from ray_jobs.nightly import infrastructure

    assert infrastructure.TRY_AGAIN_EXIT_CODE == TRY_AGAIN_EXIT_CODE


@pytest.mark.parametrize(
    ("job", "opens"),
    [
        ("erase_users", "open_engine"),
        ("retain", "open_engine"),
        ("prune", "open_night"),
    ],
)
def test_a_job_beside_the_nights_is_tried_again_when_the_database_was_away(
    monkeypatch: pytest.MonkeyPatch, job: str, opens: str
) -> None:
    module = importlib.import_module(f"ray_jobs.nightly.{job}")

    def away(*_: Any) -> None:
        raise StoreBusy("postgresql", "it is restarted")

    monkeypatch.setattr(module, opens, away)
    monkeypatch.setattr("os.nice", lambda _: 0)
    monkeypatch.setattr("sys.argv", [job])
    with pytest.raises(SystemExit) as ended:
        module.main()
    seen = JobSeen("s", "FAILED", 1, error_type=OWN, exit_code=int(str(ended.value.code)))
    assert seen.failed_by_infrastructure


def test_what_is_no_ray_job_follows_airflow() -> None:
    assert decided(RuntimeError("of the trigger")) is RetryAction.DEFAULT


def test_an_operator_has_the_rule_without_being_asked() -> None:
    assert isinstance(
        RayJobOperator(task_id="t", entrypoint="true").retry_policy, InfrastructureRetries
    )
