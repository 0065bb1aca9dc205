"""A run of the night names one generation, and only that."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dags.generation_name import generation_id

STAMP = datetime(2026, 11, 24, 3, 0, 0, tzinfo=UTC)


def test_every_task_and_retry_of_a_run_gets_the_same_name() -> None:
    elsewhere = STAMP.astimezone(timezone(timedelta(hours=9)))
    assert generation_id("scheduled__x", STAMP) == generation_id("scheduled__x", elsewhere)
    assert generation_id("scheduled__x", STAMP).startswith("g20261124T030000Z-")


def test_two_runs_of_one_second_get_two_names() -> None:
    assert generation_id("manual__a", STAMP) != generation_id("manual__b", STAMP)


def test_names_sort_by_time() -> None:
    later = generation_id("a", STAMP + timedelta(seconds=1))
    assert generation_id("z", STAMP) < later


def test_a_stamp_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        generation_id("a", datetime(2026, 11, 24))
