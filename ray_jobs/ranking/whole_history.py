"""What all that a user ever took says of an item: two linear models, each kept as factors.

What goes together: a linear autoencoder.

    G = X^T X,  P = (G + ridge I)^-1,  B(i, j) = -P(i, j) / P(j, j)

(EASE: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.) With the eigenvalues
e of G and its eigenvectors V,

    F = V sqrt(e / (e + ridge)),  B(i, j) = F(i) . F(j) / (1 - |F(j)|^2)        for i other than j

so a list needs one sum of factors, however long the history is, and of the factors only those whose
e is not small beside the ridge.

What came lately: ridge regression of what was new to users in the last days, Y, on what the same
users had before, X.

    W = X^T (X X^T + ridge I)^-1 Y

(The dual form: Saunders, Gammerman and Vovk, "Ridge regression learning algorithm in dual
variables", ICML 1998; there are few such users.) B has a pair of a year ago as of today; W knows
the season. It is kept as its largest singular values: W = L N^T. A file of X and the dual would be
exact, but would hold a row for each of these users, and no published file has rows of users.

On disk, beside the other priors:

    whole.items.npy        int64   [M]     items with factors, ascending
    whole.factors.npy      float32 [M, K]  F
    lately.before.npy      float32 [M, J]  L
    lately.items.npy       int64   [C]     items that were new to users lately, ascending
    lately.after.npy       float32 [C, J]  N

U users, M items that take part, K and J factors, A users active lately, C items that were new to
them, T items seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.linalg import qr, solve, svd
from scipy.sparse.linalg import svds

from ray_jobs.compiled import FLOATS, FLOATS_2D, INTS, helper, kernel
from ray_jobs.ranking.lookup import check_ascending

RIDGE = 1_000.0
"""Above the published values: a whole history sums so many weights."""

FACTORS = 128
MOST_ITEMS = 8_000
"""Of a larger catalog those that most users took."""

LATE_RIDGE = 100.0
LATE_PAIRS = 10_000
"""What counts as lately: so many pairs of user and item, in a small log its last tenth."""
LATE_USERS, LATE_ITEMS = 512, 2_048
"""Of more, those active last and those taken most."""
LATE_FACTORS = 128

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class WholeHistory:
    """Both models. Arrays may be memory-mapped."""

    items_M: Ints
    factors_MK: Floats
    before_MJ: Floats
    late_items_C: Ints
    after_CJ: Floats

    @classmethod
    def nobody(cls) -> WholeHistory:
        """Of a catalog that nobody has acted on."""
        ints, nothing = np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
        return cls(ints, nothing, nothing, ints, nothing)

    def __post_init__(self) -> None:
        """Raises ValueError: the arrays do not belong together."""
        items, late = len(self.items_M), len(self.late_items_C)
        if (
            {len(self.factors_MK), len(self.before_MJ)} != {items}
            or self.after_CJ.shape != (late, self.before_MJ.shape[1])
            or not np.isin(self.late_items_C, self.items_M).all()
        ):
            raise ValueError("lengths that do not match")
        check_ascending(self.items_M)
        check_ascending(self.late_items_C)

    @cached_property
    def _scale_M(self) -> Floats:
        """1 / (1 - |F|^2)."""
        lengths_M = np.einsum("mk,mk->m", self.factors_MK, self.factors_MK)
        scale_M: Floats = 1 / np.maximum(1 - lengths_M, np.float32(1e-3))
        return scale_M

    def says(self, seen_T: Ints, found_N: Ints) -> Floats:
        """Of each item found: the sums over what was seen of B and of W, (N, 2); 0 of an item that
        has none. What it says of seen items themselves is not meant to be used. Both ascend."""
        said_N2: Floats = _says(
            *(seen_T, found_N, self.items_M, self.factors_MK, self._scale_M),
            *(self.before_MJ, self.late_items_C, self.after_CJ),
        )
        return said_N2


@helper
def _row_from(row: int, ascending: Ints, ordinal: int) -> int:
    """The first row from `row` on whose ordinal is not smaller."""
    while row < len(ascending) and ascending[row] < ordinal:
        row += 1
    return row


@helper
def _dot(left_K: Floats, right_K: Floats) -> np.float32:
    total = np.float32(0)
    for k in range(len(left_K)):
        total += left_K[k] * right_K[k]
    return total


@kernel(
    *(INTS, INTS, INTS, FLOATS_2D, FLOATS, FLOATS_2D, INTS, FLOATS_2D),
    reordered=True,
)
def _says(
    seen_T: Ints,
    found_N: Ints,
    items_M: Ints,
    factors_MK: Floats,
    scale_M: Floats,
    before_MJ: Floats,
    late_items_C: Ints,
    after_CJ: Floats,
) -> Floats:
    """All ordinals ascend, so each is looked for from where the one before was."""
    said_N2 = np.zeros((len(found_N), 2), np.float32)
    user_K = np.zeros(factors_MK.shape[1], np.float32)
    user_J = np.zeros(before_MJ.shape[1], np.float32)
    row, known = 0, 0
    for ordinal in seen_T:
        row = _row_from(row, items_M, ordinal)
        if row < len(items_M) and items_M[row] == ordinal:
            known += 1
            for k in range(len(user_K)):
                user_K[k] += factors_MK[row, k]
            for j in range(len(user_J)):
                user_J[j] += before_MJ[row, j]
    if not known:
        return said_N2
    row, late = 0, 0
    for place in range(len(found_N)):
        ordinal = found_N[place]
        row = _row_from(row, items_M, ordinal)
        if row < len(items_M) and items_M[row] == ordinal:
            said_N2[place, 0] = _dot(factors_MK[row], user_K) * scale_M[row]
        late = _row_from(late, late_items_C, ordinal)
        if late < len(late_items_C) and late_items_C[late] == ordinal:
            said_N2[place, 1] = _dot(after_CJ[late], user_J)
    return said_N2


def learn_whole_history(users_P: Ints, ordinals_P: Ints, span: int) -> WholeHistory:
    """From pairs (user, item) in order of time. `span`: one more than the largest ordinal."""
    if not len(users_P):
        return WholeHistory.nobody()
    _, rows_P = np.unique(users_P, return_inverse=True)
    seen_US = _table(rows_P, ordinals_P, span)
    users_S = np.asarray(seen_US.sum(axis=0)).ravel()
    items_M = np.flatnonzero(users_S)
    if len(items_M) > MOST_ITEMS:
        items_M = np.sort(np.lexsort((items_M, -users_S[items_M]))[:MOST_ITEMS])
    factors_MK = _factors(seen_US[:, items_M])
    return WholeHistory(items_M, factors_MK, *_lately(rows_P, ordinals_P, span, items_M))


def _factors(seen_UM: scipy.sparse.csr_matrix) -> Floats:
    """F (M, K), of the largest eigenvalues."""
    count = min(FACTORS, min(seen_UM.shape) - 1)
    if count < 1:
        return np.zeros((seen_UM.shape[1], 0), np.float32)
    start = np.random.default_rng(0).standard_normal(min(seen_UM.shape)).astype(np.float32)
    _, singular_K, vectors_KM = svds(seen_UM, k=count, v0=start)
    eigen_K = singular_K.astype(np.float64) ** 2
    factors_MK = vectors_KM.T * np.sqrt(eigen_K / (eigen_K + RIDGE))
    return np.ascontiguousarray(factors_MK, np.float32)


def _lately(
    rows_P: Ints, ordinals_P: Ints, span: int, items_M: Ints
) -> tuple[Floats, Ints, Floats]:
    """L (M, J), the items that were new to users lately (C,), and N (C, J)."""
    cut = len(rows_P) - min(LATE_PAIRS, len(rows_P) // 10)
    users = int(rows_P.max()) + 1
    had_US = _table(rows_P[:cut], ordinals_P[:cut], span, users)
    late_US = _table(rows_P[cut:], ordinals_P[cut:], span, users)
    new_US = (late_US - late_US.multiply(had_US)).tocsr()
    new_US.eliminate_zeros()
    last_U = np.full(users, -1)
    np.maximum.at(last_U, rows_P[cut:], np.arange(len(rows_P) - cut))
    active = (np.diff(new_US.indptr) > 0) & (np.diff(had_US.indptr) > 0)
    active_A = np.flatnonzero(active)
    active_A = np.sort(active_A[np.argsort(-last_U[active_A], kind="stable")[:LATE_USERS]])
    had_AM, new_AM = had_US[active_A][:, items_M], new_US[active_A][:, items_M]
    takers_M = np.asarray(new_AM.sum(axis=0)).ravel()
    late = np.flatnonzero(takers_M)
    late = np.sort(late[np.argsort(-takers_M[late], kind="stable")[:LATE_ITEMS]])
    if not len(late):
        nothing = np.zeros((0, 0), np.float32)
        return np.zeros((len(items_M), 0), np.float32), np.zeros(0, np.int64), nothing
    kernel_AA = (had_AM @ had_AM.T).toarray()
    kernel_AA[np.diag_indices_from(kernel_AA)] += np.float32(LATE_RIDGE)
    dual_AC = solve(kernel_AA, new_AM[:, late].toarray(), assume_a="pos")
    # Singular values of X^T D by those of R D, where X^T = Q R: as small as the users are few.
    basis_MA, corner_AA = qr(had_AM.T.toarray(), mode="economic")
    left_AJ, values_J, right_JC = svd(corner_AA @ dual_AC, full_matrices=False)
    before_MJ = basis_MA @ left_AJ[:, :LATE_FACTORS]
    after_CJ = right_JC[:LATE_FACTORS].T * values_J[:LATE_FACTORS]
    return (
        np.ascontiguousarray(before_MJ, np.float32),
        items_M[late],
        np.ascontiguousarray(after_CJ, np.float32),
    )


def _table(
    rows_P: Ints, ordinals_P: Ints, span: int, users: int | None = None
) -> scipy.sparse.csr_matrix:
    """(U, S): 1 where there is a pair, however often."""
    users = int(rows_P.max()) + 1 if users is None else users
    ones = np.ones(len(rows_P), np.float32)
    table = scipy.sparse.csr_matrix((ones, (rows_P, ordinals_P)), shape=(users, span))
    table.data[:] = 1  # duplicates were summed
    return table
