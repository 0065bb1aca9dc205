"""A difference is real when its interval leaves zero out, and not when it is chance."""

import numpy as np
import pytest

from ray_jobs.ranking.significance import paired_bootstrap


def test_a_constant_gain_is_found_exactly_and_no_gain_is_not() -> None:
    users = np.repeat(np.arange(50), 4)
    base = np.linspace(0.0, 1.0, 200)
    low, high = paired_bootstrap(base + 0.1, base, users, seed=0)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)
    assert paired_bootstrap(base, base, users, seed=0) == (0.0, 0.0)


def test_noise_of_one_loud_user_is_not_significant() -> None:
    users = np.repeat(np.arange(20), 5)
    first, second = np.zeros(100), np.zeros(100)
    first[users == 0] = 1.0
    low, high = paired_bootstrap(first, second, users, seed=0)
    assert low == 0.0
    assert high > 0.0


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="questions"):
        paired_bootstrap(np.zeros(3), np.zeros(2), np.zeros(3, np.int64), seed=0)
