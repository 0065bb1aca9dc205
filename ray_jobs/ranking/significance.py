"""Is a difference real? A paired bootstrap over users (Sakai 2006): users are resampled, not
questions, because the questions of one user are not independent.

Shapes: Q questions, U users, R resamples.
"""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
CONFIDENCE = 0.95
AT_ONCE = 500
"""Resamples drawn together: bounds the memory."""


def paired_bootstrap(
    first_Q: NDArray[np.float64],
    second_Q: NDArray[np.float64],
    users_Q: NDArray[np.int64],
    *,
    seed: int,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """The confidence interval (low, high) of mean(first) - mean(second), users resampled.

    `first_Q` and `second_Q` are the gains of two models on the same questions. A `confidence` close
    to 1 needs `resamples` enough: some 20 beyond each end of the interval.

    Raises:
        ValueError: no question, or columns of unequal length.
    """
    if not len(users_Q) or not len(first_Q) == len(second_Q) == len(users_Q):
        raise ValueError(f"columns of {len(first_Q)}, {len(second_Q)}, {len(users_Q)} questions")
    _, user_Q = np.unique(users_Q, return_inverse=True)
    sums_U = np.bincount(user_Q, weights=first_Q - second_Q)
    counts_U = np.bincount(user_Q)
    rng = np.random.default_rng(seed)
    differences_R = np.empty(resamples)
    for first in range(0, resamples, AT_ONCE):
        drawn_RU = rng.integers(len(sums_U), size=(min(AT_ONCE, resamples - first), len(sums_U)))
        means_R = sums_U[drawn_RU].sum(axis=1) / counts_U[drawn_RU].sum(axis=1)
        differences_R[first : first + AT_ONCE] = means_R
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences_R, [tail, 1 - tail])
    return float(low), float(high)
