"""Look-ups among ascending ordinals give what a dictionary would."""

import numpy as np

from ray_jobs.ranking.lookup import rows_in, unique_sorted

RNG = np.random.default_rng(1)


def test_rows_are_those_of_a_dictionary_and_none_is_minus_one() -> None:
    wanted = RNG.integers(60, size=100)
    for size in (0, 1, 30):
        ascending = np.sort(RNG.permutation(60)[:size])
        row_of = {int(ordinal): row for row, ordinal in enumerate(ascending)}
        assert rows_in(ascending, wanted).tolist() == [row_of.get(int(o), -1) for o in wanted]


def test_a_sort_is_np_unique() -> None:
    values = RNG.integers(50, size=200)
    for part in (values, values[:1], values[:0]):
        assert unique_sorted(part).tolist() == np.unique(part).tolist()
