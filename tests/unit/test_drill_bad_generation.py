"""The drill `bad-generation` in short; and it can fail: a gate that looks at no contents."""

import pytest

from infra.drills.bad_generation import BAD, run_with
from infra.drills.figures import Options
from ray_jobs.nightly import gate

USERS = 100
OPTIONS = Options(rounds=1, seed=2, progress=False)


def test_a_bad_night_is_refused_with_its_reason_and_the_last_good_one_serves() -> None:
    names = (
        "permuted texts",  # first: the nights after it must not take its vectors
        "poor recall",
        "neighbours of other items",
    )
    figures = run_with(OPTIONS, {name: BAD[name] for name in names}, USERS)
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.more["bad_refused"] == len(names)
    assert figures.more["good_passed"] == 1


def test_a_gate_that_does_not_look_at_the_catalog_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "check_items", lambda _: None)
    name = "two names changed places"
    figures = run_with(OPTIONS, {name: BAD[name]}, USERS)
    assert figures.broken[0] == f"{name}: it passed the gate"
