"""The drill `retry-storm` in short, on both databases; and it can fail."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from infra.drills.figures import Figures, Options
from infra.drills.local import local_store
from infra.drills.retry_storm import ITEMS, run_on
from serve import feedback
from sql.events import NewEvent


def storm(database_url: str) -> Figures:
    with local_store(items=ITEMS, seed=1, database_url=database_url) as store:
        return run_on(store, Options(rounds=2, seed=1, progress=False))


def test_events_sent_many_times_in_any_order_are_stored_once(database_url: str) -> None:
    figures = storm(database_url)
    assert figures.broken == []
    assert figures.passed, figures.document()
    for name in ("answers_thrown_away", "told_duplicate", "other_bodies"):
        assert figures.more[name] > 20


def test_a_log_that_does_not_know_its_retries_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = feedback.append

    def forgetful(engine: Any, requests: Sequence[Sequence[NewEvent]], **more: Any) -> Any:
        renamed = [[replace(e, event_id=uuid4().hex) for e in request] for request in requests]
        return shipped(engine, renamed, **more)

    monkeypatch.setattr(feedback, "append", forgetful)
    figures = storm(f"sqlite:///{tmp_path / 'forgetful.db'}")
    assert figures.lost > 0
    assert figures.duplicated > 0
