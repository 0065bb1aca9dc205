"""What one item says of another beside all others that the same users took: a linear autoencoder.

    G = X^T X,  P = (G + ridge I)^-1,  B(i, j) = -P(i, j) / P(j, j),  0 on the diagonal

(EASE: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.) A cosine counts each
pair for itself, so everything is near to what everybody takes; B is what is left of a pair when the
other items have said theirs. The inverse is dense: of a larger catalog the MOST_ITEMS that most
users took take part, and the others go without.

Shapes: U users, S ordinals, M items that take part.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.linalg import lapack

MOST_ITEMS = 8_000
"""0.8 GB by its bytes: the sparse product of 8 bytes an entry beside the dense one of 4."""

RIDGE = 300.0
"""Of the order of a popular item's users; the published values for catalogs of this size."""

LEAST_WEIGHT = 1e-4
"""A smaller one says nothing, and is not kept."""

Ints = NDArray[np.int64]


def linear_weights(seen_US: scipy.sparse.csr_matrix, each: int) -> scipy.sparse.csr_matrix:
    """B (S, S), row by row the `each` weights that are farthest from 0."""
    users_S = np.asarray((seen_US > 0).sum(axis=0)).ravel()
    taken = np.flatnonzero(users_S)
    if len(taken) > MOST_ITEMS:
        taken = np.sort(np.lexsort((taken, -users_S[taken]))[:MOST_ITEMS])
    part_UM = seen_US[:, taken]
    gram_MM = (part_UM.T @ part_UM).toarray()  # float32, as `seen_US` is
    gram_MM[np.diag_indices_from(gram_MM)] += np.float32(RIDGE)
    inverse_MM = inverse_of(gram_MM)
    weights_MM = inverse_MM
    weights_MM /= -np.diag(inverse_MM).copy()
    np.fill_diagonal(weights_MM, 0)
    rows, columns = _farthest(weights_MM, each)
    kept = weights_MM[rows, columns]
    span = seen_US.shape[1]
    return scipy.sparse.csr_matrix((kept, (taken[rows], taken[columns])), shape=(span, span))


def inverse_of(positive: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of a positive definite matrix, which is overwritten, by Cholesky: a sixth of the time of
    `numpy.linalg.inv`.

    Raises:
        ValueError: it is not positive definite.
    """
    if not len(positive):
        return positive
    # Transposed, it is in Fortran's order and is overwritten in place; it is symmetric.
    factor, failed = lapack.spotrf(positive.T, lower=True, overwrite_a=True)
    found, failed_too = lapack.spotri(factor, lower=True, overwrite_c=True)
    if failed or failed_too:
        raise ValueError("not positive definite: a larger ridge is needed")
    inverse: NDArray[np.float32] = found.T
    for row in range(len(inverse)):  # the other half
        inverse[row, :row] = inverse[:row, row]
    return inverse


def _farthest(weights_MM: NDArray[np.float32], each: int) -> tuple[Ints, Ints]:
    """Rows and columns of the `each` entries of each row that are farthest from 0."""
    count = len(weights_MM)
    rows, columns = [], []
    for row in range(count):
        far = np.abs(weights_MM[row])
        best = np.argpartition(-far, each - 1)[:each] if count > each else np.arange(count)
        best = np.sort(best[far[best] >= LEAST_WEIGHT])
        rows.append(np.full(len(best), row))
        columns.append(best)
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *rows]), np.concatenate([empty, *columns])
