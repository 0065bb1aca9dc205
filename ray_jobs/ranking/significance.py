"""Is a difference real? A paired bootstrap over users (Sakai 2006): users are resampled, not
questions, because the questions of one user are not independent.

Shapes: Q questions, U users, R resamples.
"""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
CONFIDENCE = 0.95


def paired_bootstrap(
    first_Q: NDArray[np.float64],
    second_Q: NDArray[np.float64],
    users_Q: NDArray[np.int64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """The confidence interval (low, high) of mean(first) - mean(second), users resampled.

    `first_Q` and `second_Q` are the gains of two models on the same questions.

    Raises:
        ValueError: no question, or columns of unequal length.
    """
    if not len(users_Q) or not len(first_Q) == len(second_Q) == len(users_Q):
        raise ValueError(f"columns of {len(first_Q)}, {len(second_Q)}, {len(users_Q)} questions")
    _, user_Q = np.unique(users_Q, return_inverse=True)
    sums_U = np.bincount(user_Q, weights=first_Q - second_Q)
    counts_U = np.bincount(user_Q)
    rng = np.random.default_rng(seed)
    drawn_RU = rng.integers(len(sums_U), size=(resamples, len(sums_U)))
    differences_R = sums_U[drawn_RU].sum(axis=1) / counts_U[drawn_RU].sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(differences_R, [tail, 1 - tail])
    return float(low), float(high)
