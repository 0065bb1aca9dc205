"""The drill `io-error` in short; and it can fail: events acknowledged that were not committed."""

from typing import Any

import pytest

from infra.drills.figures import Figures, Options
from infra.drills.io_error import run_on
from infra.drills.local import local_store
from serve import feedback
from sql.events import Appended

USERS = 100


def drill(rounds: int) -> Figures:
    with local_store(items=0, seed=4) as store:
        return run_on(store, Options(rounds=rounds, seed=4, progress=False), USERS)


def test_a_write_that_fails_is_not_acknowledged_and_the_night_goes_on_where_it_broke_off() -> None:
    figures = drill(1)
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.more["failed_writes"] == figures.more["answered_503"] > 40
    assert figures.more["nights_failed"] == 1


def test_an_acknowledgement_without_a_commit_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = feedback.append_posts

    def hopeful(engine: Any, posts: Any, *more: Any) -> Any:
        outcomes = shipped(engine, posts, *more)
        return [
            [Appended(event.event_id, 1, duplicate=False) for event in post[0]]
            if isinstance(outcome, Exception)
            else outcome
            for post, outcome in zip(posts, outcomes, strict=True)
        ]

    monkeypatch.setattr(feedback, "append_posts", hopeful)
    assert drill(0).lost > 0
