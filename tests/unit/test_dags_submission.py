"""One task, one job: what is submitted, found again, reported and never taken for success."""

import dataclasses
import re

import pytest

from dags.ray_job.submission import (
    MAX_ATTEMPTS,
    Action,
    Decision,
    JobSeen,
    TaskCoordinates,
    decide,
)

TASK = TaskCoordinates("nightly_generation", "manual__2026-11-24T03:00:00", "embed", -1, 0)


def seen(attempt: int, status: str, try_number: int | None = 1) -> JobSeen:
    return JobSeen(TASK.submission_id(attempt), status, try_number)


def test_the_id_is_the_same_whoever_computes_it() -> None:
    assert TASK.submission_id(1) == dataclasses.replace(TASK).submission_id(1)
    assert TASK.submission_id(1) == "nightly_generation-embed-34d8eed92502b299-c0-a1"


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(TASK, dag_id="other"),
        dataclasses.replace(TASK, run_id="manual__2026-11-25T03:00:00"),
        dataclasses.replace(TASK, task_id="train"),
        dataclasses.replace(TASK, map_index=0),
        dataclasses.replace(TASK, clear_number=1),
        # Names that would meet if they were only joined.
        dataclasses.replace(TASK, dag_id="nightly", run_id="generation" + TASK.run_id),
    ],
)
def test_other_work_has_another_id(other: TaskCoordinates) -> None:
    assert other.submission_id(1) != TASK.submission_id(1)


def test_the_id_survives_urls_and_shells() -> None:
    odd = TaskCoordinates("düsseldorf/a b", "run?&", "x" * 300, 3, 0)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,150}", odd.submission_id(1))


def test_a_first_look_that_finds_nothing_submits() -> None:
    assert decide(TASK, [], [], 1) == Decision(Action.SUBMIT, TASK.submission_id(1))


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
@pytest.mark.parametrize("try_number", [1, 2, 7])
def test_a_living_job_is_attached_to_by_any_try(status: str, try_number: int) -> None:
    assert decide(TASK, [seen(1, status)], [], try_number).action is Action.ATTACH


def test_a_job_that_succeeded_while_nobody_looked_is_done() -> None:
    assert decide(TASK, [seen(1, "SUCCEEDED")], [], 2).action is Action.DONE


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_a_job_that_ended_badly_before_the_first_look_fails_its_try(status: str) -> None:
    assert decide(TASK, [seen(1, status)], [], 1).action is Action.FAIL


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_the_next_try_submits_the_next_attempt(status: str) -> None:
    decision = decide(TASK, [seen(1, status)], [], 2)
    assert decision == Decision(Action.SUBMIT, TASK.submission_id(2))


def test_a_bad_end_of_unknown_origin_is_reported_and_not_repeated() -> None:
    assert decide(TASK, [seen(1, "FAILED", None)], [], 5).action is Action.FAIL


@pytest.mark.parametrize("status", ["", "DONE", "succeeded", "SUCCESS", "UNKNOWN"])
def test_an_unknown_status_is_never_success_nor_submitted_over(status: str) -> None:
    assert decide(TASK, [seen(1, status)], [], 2).action is Action.FAIL


def test_a_cleared_task_runs_again_although_its_job_succeeded() -> None:
    cleared = dataclasses.replace(TASK, clear_number=1)
    decision = decide(cleared, [], [seen(1, "SUCCEEDED")], 2)
    assert decision == Decision(Action.SUBMIT, cleared.submission_id(1))


def test_a_living_job_of_an_earlier_clear_is_stopped_before_another_runs() -> None:
    cleared = dataclasses.replace(TASK, clear_number=1)
    decision = decide(cleared, [], [seen(1, "FAILED"), seen(2, "RUNNING")], 3)
    assert decision == Decision(Action.STOP_FIRST, TASK.submission_id(2))


def test_attempts_are_bounded() -> None:
    attempts = [seen(ordinal, "FAILED", ordinal) for ordinal in range(1, MAX_ATTEMPTS + 1)]
    assert decide(TASK, attempts, [], MAX_ATTEMPTS + 1).action is Action.FAIL
