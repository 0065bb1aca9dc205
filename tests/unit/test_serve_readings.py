"""Of which nights the on-call is told, and of which steps: by the rows of the registry alone."""

from dataclasses import replace
from typing import Any

import pytest

from serve import metric_names as names
from serve.readings import of_erasures, of_the_registry
from sql.generations import REBUILDS, WATERMARK, Generation, LivePointer, State, Unfinished

HOUR_MS = 3_600_000
NOW_MS = 100 * HOUR_MS
POINTER = LivePointer(1, "live", None, "night", "nightly publish", 50 * HOUR_MS, False)


def made(name: str, state: State, hour: int, **metrics: Any) -> Generation:
    return Generation(name, state, "e", 1, 0, 0, metrics, None, hour * HOUR_MS, None)


LIVE = made("live", "published", 50)


def told(*known: Generation, pointer: LivePointer | None = POINTER) -> dict[tuple[str, ...], float]:
    readings = of_the_registry(pointer, known, [], NOW_MS)
    return {(name, *labels.values()): value for name, value, labels in readings}


def failed(*known: Generation) -> dict[str, float]:
    """Of each `why` for which there is a night."""
    found = {key[1]: n for key, n in told(*known).items() if key[0] == names.NIGHTS_FAILED}
    assert found.keys() == {"gate", "data", "stage", "step", "after_publish"}
    return {why: n for why, n in found.items() if n}


def unfinished(*, is_tried_again: bool = False) -> dict[str, Any]:
    left = Unfinished("parity", "another BERT", NOW_MS, is_tried_again)
    return {"unfinished": left._asdict()}


def test_a_step_that_failed_after_the_publish_of_what_is_live_is_told() -> None:
    assert failed(LIVE) == {}
    assert failed(replace(LIVE, metrics=unfinished())) == {"after_publish": 1}
    assert failed(replace(LIVE, metrics=unfinished(is_tried_again=True))) == {}


def test_what_a_hold_kept_from_going_live_is_told_and_what_was_gone_back_from_is_not() -> None:
    held = made("held", "sealed", 60, **unfinished())
    assert failed(LIVE, held) == {"after_publish": 1}
    assert failed(LIVE, replace(held, state="published")) == {}, "its hold tells"
    assert failed(LIVE, replace(held, created_at_ms=40 * HOUR_MS)) == {}, "it is mended"


@pytest.mark.parametrize(
    "metrics", [{REBUILDS: "g1"}, {WATERMARK: {REBUILDS: "g1"}}], ids=["building", "sealed"]
)
def test_a_rebuild_that_fails_or_hangs_pages_nobody(metrics: dict[str, Any]) -> None:
    night = made("n", "failed", 60, failed_as="GateRefused")
    assert failed(LIVE, night) == {"gate": 1}
    rebuild = replace(night, metrics={**night.metrics, **metrics})
    assert failed(LIVE, rebuild) == {}
    assert failed(LIVE, replace(rebuild, state="sealed", metrics={**metrics, **unfinished()})) == {}
    building = replace(rebuild, state="building")
    assert told(LIVE, building)[names.NIGHT_SILENT,] == 0
    assert told(LIVE, replace(building, metrics={}))[names.NIGHT_SILENT,] == 40 * 3_600


def test_a_rebuild_that_is_live_is_told_as_any() -> None:
    live = replace(LIVE, metrics={REBUILDS: "g1", **unfinished()})
    assert failed(live) == {"after_publish": 1}


@pytest.mark.parametrize("state", ["building", "failed", "sealed", "staged", "published"])
def test_steps_are_those_of_the_newest_night_whatever_became_of_it(state: State) -> None:
    steps = {"export": {"seconds": 1.0, "rows": 7}, "train": {"seconds": 2.0, "rows": None}}
    live = replace(LIVE, metrics={"steps": steps, "check_volume": 1.0})
    night = made("n", state, 60, steps={"export": {"seconds": 9.0, "rows": 3}}, check_volume=9.0)
    again = made("r", "sealed", 70, steps=steps, check_volume=5.0, rebuilds="live")
    begun = made("b", "building", 80)
    values = told(begun, again, night, live)
    assert values[names.STEP_DURATION, "export"] == 9.0
    assert values[names.STEP_ROWS, "export"] == 3
    assert (names.STEP_DURATION, "train") not in values
    assert values[names.NIGHT_CHECK, "volume"] == 9.0
    assert told(night, pointer=None)[names.STEP_DURATION, "export"] == 9.0, "before any is live"


def test_an_open_erasure_has_its_age() -> None:
    assert of_erasures(None, NOW_MS).value == 0
    assert of_erasures(NOW_MS - 40 * HOUR_MS, NOW_MS).value == 40 * 3_600
    assert of_erasures(NOW_MS + 5, NOW_MS).value == 0, "by a clock that is ahead"
    assert of_erasures(0, 1_000) == (names.ERASURE_OPEN, 1.0, {})
