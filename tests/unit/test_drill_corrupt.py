"""The drill `corrupt` in short; and it can fail: a replica that checks sizes only."""

import pytest

from infra.drills.corrupt import run
from infra.drills.figures import Options
from serve import loaded_generation


def test_damage_anywhere_is_refused_by_name_and_the_last_good_generation_serves() -> None:
    figures = run(Options(rounds=4, seed=3, progress=False))
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.more["files"] == 22
    assert figures.more["detected_share"] == 1.0
    assert figures.more["answered_from_the_good_one"] == 20


def test_a_replica_that_looks_at_sizes_only_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_generation, "verify", lambda *_: None)
    figures = run(Options(rounds=1, seed=3, progress=False))
    assert figures.more["detected_share"] < 1.0
    assert any("it was loaded" in broken for broken in figures.broken)
