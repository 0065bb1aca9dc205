"""The past events nearest to an item: by brute force, and a case whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ray_jobs.ranking.explain import differences, nearest_events


def unit(rows) -> np.ndarray:
    rows = np.array(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_of_equal_events_the_lower_row_comes_first_wherever_they_are() -> None:
    rng = np.random.default_rng(3)
    for events in range(2, 40):
        events_MD = unit(np.tile(rng.normal(size=(1, 128)), (events, 1)))
        rows, cosines = nearest_events(unit(rng.normal(size=(7, 128))), events_MD, most=events)
        assert (rows == np.arange(events)).all()
        assert (cosines == cosines[:, :1]).all()


@pytest.mark.parametrize(("items", "events"), [(1, 1), (5, 2), (7, 40), (3, 0), (0, 4)])
def test_nearest_events_are_those_of_a_plain_sort(items, events):
    rng = np.random.default_rng(items + events)
    items_ND = unit(rng.normal(size=(items, 8)) + 1e-3) if items else np.zeros((0, 8), np.float32)
    events_MD = unit(rng.normal(size=(events, 8))) if events else np.zeros((0, 8), np.float32)
    rows, cosines = nearest_events(items_ND, events_MD)
    assert rows.shape == cosines.shape == (items, min(3, events))
    for item in range(items):
        plain = sorted(
            ((float(items_ND[item] @ events_MD[row]), row) for row in range(events)),
            key=lambda pair: (-pair[0], pair[1]),
        )[:3]
        assert rows[item].tolist() == [row for _, row in plain]
        assert cosines[item].tolist() == pytest.approx([cosine for cosine, _ in plain], abs=1e-6)


def test_of_equal_cosines_the_lower_row_is_first_and_one_may_be_asked_for():
    events_MD = unit([[0, 1], [1, 0], [1, 0]])
    rows, cosines = nearest_events(unit([[1, 0]]), events_MD, most=2)
    assert rows.tolist() == [[1, 2]]
    assert cosines.tolist() == [[1.0, 1.0]]
    for bad in ({"most": 0}, {"events_MD": np.zeros((1, 3), np.float32)}):
        with pytest.raises(ValueError, match="most must"):
            nearest_events(**{"items_ND": unit([[1, 0]]), "events_MD": events_MD, **bad})


def test_a_difference_needs_both():
    assert differences([1.0, None, 0.5, 0.25], [0.5, 1.0, None, 0.25]) == [-0.5, None, None, 0.0]
