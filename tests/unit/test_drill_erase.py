"""The drill `erase` in short; and it can fail: a log that takes what happened before an erasure."""

import pytest

from infra.drills.erase import run_with
from infra.drills.figures import Options
from sql import event_log

USERS = 100
OPTIONS = Options(rounds=1, seed=8, progress=False)


def test_nothing_brings_back_who_was_erased_amid_traffic() -> None:
    figures = run_with(OPTIONS, USERS)
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.more["late_retries"] > 100
    assert (figures.more["canary_found"], figures.more["restored"]) == (0, 1)


def test_a_log_that_takes_late_retries_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "mark_returned", lambda *_: None)
    figures = run_with(OPTIONS, USERS)
    assert figures.resurrected > 0
