"""Rows by table equal rows by search, wherever the ordinals lie."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.shards.ordinal_rows import OrdinalRows

ORDINALS = st.sets(st.integers(0, 40) | st.integers(10**9, 10**9 + 5), max_size=30)


@given(held=ORDINALS, asked=st.lists(st.integers(-3, 50) | st.integers(10**9, 10**9 + 9)))
def test_each_ordinal_has_its_row_or_none(held: set[int], asked: list[int]) -> None:
    ordered = sorted(held)
    rows = OrdinalRows(np.array(ordered, np.int64))
    wanted = [ordered.index(ordinal) if ordinal in held else -1 for ordinal in asked]
    ordinals = np.array(asked, np.int64)
    assert rows.of(ordinals).tolist() == wanted
    assert rows.has(ordinals).tolist() == [row >= 0 for row in wanted]


def test_every_third_of_an_array_is_asked_for_as_it_is() -> None:
    rows = OrdinalRows(np.array([1, 2, 4], np.int64))
    asked = np.array([4, 0, 0, 9, 0, 0, 1], np.int64)[::3]
    assert rows.of(asked).tolist() == [2, -1, 0]
