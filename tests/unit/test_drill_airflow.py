"""What Airflow's drills conclude from Ray's list of jobs; and their BERT tells topics apart."""

from pathlib import Path
from typing import Any

import pytest

from infra.drills.kill_airflow import too_often
from infra.drills.made_bert import make_bert
from infra.drills.submitted import Job, jobs_of
from ray_jobs.encoders.item_bert import BertEncoder


def listed(submission_id: str | None, start_time: int, status: str = "SUCCEEDED") -> dict[str, Any]:
    return {"submission_id": submission_id, "start_time": start_time, "status": status}


def test_jobs_stand_in_the_order_of_submission_without_drivers_of_nobody() -> None:
    answer = [
        listed("n-embed-x-c0-a1", 3, "RUNNING"),
        listed(None, 1),
        listed("n-export-x-c0-a1", 2),
    ]
    assert jobs_of(answer) == [
        Job("n-export-x-c0-a1", "SUCCEEDED"),
        Job("n-embed-x-c0-a1", "RUNNING"),
    ]


@pytest.mark.parametrize(
    ("ran", "died", "told"),
    [
        (["export-x-c0-a1", "check-x-c0-a1"], None, {}),
        (["export-x-c0-a1", "export-x-c0-a2"], None, {"export-x": 2}),
        (["export-x-c0-a1", "export-x-c1-a1"], "export-x", {}),
        (["export-x-c0-a1", "export-x-c0-a1"], "export-x", {}),  # a head that knew nothing
        (["export-x-c0-a1", "export-x-c0-a1"], "check-x", {"export-x": 2}),
        (["export-x-c0-a1", "export-x-c0-a2", "export-x-c0-a3"], "export-x", {"export-x": 3}),
        (["shard-x-c0-a1", "shard-y-c0-a1"], None, {}),
    ],
)
def test_one_job_of_each_work_and_one_more_of_what_died(
    ran: list[str], died: str | None, told: dict[str, int]
) -> None:
    assert too_often([Job(name, "SUCCEEDED") for name in ran], died) == told


def test_texts_that_share_words_are_close(tmp_path: Path) -> None:
    bert = BertEncoder(make_bert(tmp_path / "bert"))
    titles = [
        "space spacew3 spacew4 space17",
        "space spacew3 spacew4 space18",
        "pasta pastaw9 pasta38",
    ]
    one, like, other = bert.encode(titles)
    assert one @ like > one @ other + 0.05
