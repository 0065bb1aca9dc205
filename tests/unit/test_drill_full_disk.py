"""The drill `full-disk` in short. (A false acknowledgement is found in `test_drill_io_error`.)"""

from infra.drills.figures import Options
from infra.drills.full_disk import run_with

USERS = 100


def test_a_full_disk_takes_nothing_acknowledged_and_no_generation_with_it() -> None:
    figures = run_with(Options(rounds=2, seed=6, progress=False), USERS)
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.more["posts_refused"] == 2
    assert figures.more["nights_failed"] >= 1
