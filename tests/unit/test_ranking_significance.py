"""A difference is real when its interval leaves zero out, and not when it is chance."""

import numpy as np
import pytest

from ray_jobs.nightly.evaluate import GATE_CONFIDENCE
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


def test_equals_are_hardly_ever_called_worse_at_the_confidence_of_the_gate() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(80), 4)
    called_worse = {0.95: 0, GATE_CONFIDENCE: 0}
    for seed in range(200):
        gains = np.where(rng.random((2, 320)) < 0.3, rng.random((2, 320)), 0.0)
        for confidence in called_worse:
            of = {"seed": seed, "confidence": confidence, "resamples": 4_000}
            called_worse[confidence] += paired_bootstrap(*gains, users, **of)[1] < 0
    assert called_worse[GATE_CONFIDENCE] <= 1
    assert called_worse[0.95] >= 2  # some 5 are expected: what the gate would then refuse
    worse = paired_bootstrap(
        gains[0], gains[0] + 0.05 * (rng.random(320) < 0.9), users, seed=0, confidence=0.998
    )
    assert worse[1] < 0
