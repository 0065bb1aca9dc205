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

    W = X^T D,  D = (X X^T + ridge I)^-1 Y

(The dual form: Saunders, Gammerman and Vovk, "Ridge regression learning algorithm in dual
variables", ICML 1998.) B has a pair of a year ago as of today; W knows the season. For a user it is
D weighed by how many items the user shares with each of the users who were active lately.

On disk, beside the other priors:

    whole.items.npy       int64   [M]      items with factors, ascending
    whole.factors.npy     float32 [M, K]   F
    lately.offsets.npy    int64   [M + 1]  item m was had before by holders offsets[m]..
    lately.holders.npy    int32   [L]      rows of `dual`
    lately.dual.npy       float32 [A, C]   D
    lately.items.npy      int64   [C]      its columns, ascending

U users, M items that take part, K factors, A users active lately, C items new to them, T seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.sparse.linalg import svds

RIDGE = 1_000.0
"""Above the published values: a whole history sums so many weights."""

FACTORS = 128
MOST_ITEMS = 8_000
"""Of a larger catalog those that most users took: a list looks at every one of them."""

LATE_RIDGE = 100.0
LATE_PAIRS = 10_000
"""What counts as lately: so many pairs of user and item, in a small log its last tenth."""
LATE_USERS, LATE_ITEMS = 512, 2_048
"""Of more, those active last and those taken most: a list reads all of D, 4 MB."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class WholeHistory:
    """Both models. Arrays may be memory-mapped; those of C, A and L are not large."""

    items_M: Ints
    factors_MK: Floats
    offsets_M1: Ints
    holders_L: NDArray[np.int32]
    dual_AC: Floats
    late_items_C: Ints

    @classmethod
    def nobody(cls) -> WholeHistory:
        """Of a catalog that nobody has acted on."""
        ints, nothing = np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
        return cls(ints, nothing, np.zeros(1, np.int64), np.zeros(0, np.int32), nothing, ints)

    def __post_init__(self) -> None:
        """Raises ValueError: the arrays do not belong together."""
        items, late = len(self.items_M), len(self.late_items_C)
        if (
            len(self.factors_MK) != items
            or len(self.offsets_M1) != items + 1
            or self.offsets_M1[-1] != len(self.holders_L)
            or self.dual_AC.shape[1] != late
            or self.holders_L.max(initial=-1) >= len(self.dual_AC)
            or not np.isin(self.late_items_C, self.items_M).all()
        ):
            raise ValueError("lengths that do not match")

    @cached_property
    def _scale_M(self) -> Floats:
        """1 / (1 - |F|^2)."""
        lengths_M = np.einsum("mk,mk->m", self.factors_MK, self.factors_MK)
        scale_M: Floats = 1 / np.maximum(1 - lengths_M, np.float32(1e-3))
        return scale_M

    @cached_property
    def _late_rows_C(self) -> Ints:
        return np.searchsorted(self.items_M, self.late_items_C)

    def says(self, seen_T: Ints) -> Floats:
        """Of each of `items_M`: the sums over `seen_T` (ascending) of B and of W, (M, 2). What it
        says of seen items themselves is not meant to be used."""
        said_M2 = np.zeros((len(self.items_M), 2), np.float32)
        rows = np.searchsorted(self.items_M, seen_T)
        inside = rows < len(self.items_M)
        rows, seen = rows[inside], seen_T[inside]
        rows = rows[self.items_M[rows] == seen]
        if len(rows):
            said_M2[:, 0] = self.factors_MK @ self.factors_MK[rows].sum(axis=0) * self._scale_M
            holders = [
                self.holders_L[self.offsets_M1[row] : self.offsets_M1[row + 1]] for row in rows
            ]
            shared_A = np.bincount(np.concatenate(holders), minlength=len(self.dual_AC))
            said_M2[self._late_rows_C, 1] = shared_A.astype(np.float32) @ self.dual_AC
        return said_M2


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
    had_AM, dual_AC, late_C = _lately(rows_P, ordinals_P, span, items_M)
    had_MA = had_AM.T.tocsr()
    had_MA.sort_indices()
    return WholeHistory(
        items_M,
        factors_MK,
        had_MA.indptr.astype(np.int64),
        had_MA.indices.astype(np.int32),
        dual_AC,
        late_C,
    )


def _factors(seen_UM: scipy.sparse.csr_matrix) -> Floats:
    """F (M, K), of the largest eigenvalues."""
    count = min(FACTORS, min(seen_UM.shape) - 1)
    if count < 1:
        return np.zeros((seen_UM.shape[1], 0), np.float32)
    start = np.random.default_rng(0).standard_normal(min(seen_UM.shape)).astype(np.float32)
    _, singular_K, vectors_KM = svds(seen_UM, k=count, v0=start)
    eigen_K = singular_K.astype(np.float64) ** 2
    factors: Floats = (vectors_KM.T * np.sqrt(eigen_K / (eigen_K + RIDGE))).astype(np.float32)
    return factors


def _lately(
    rows_P: Ints, ordinals_P: Ints, span: int, items_M: Ints
) -> tuple[scipy.sparse.csr_matrix, Floats, Ints]:
    """What the users who were active lately had before (A, M), D (A, C), and its items (C,)."""
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
    kernel_AA = (had_AM @ had_AM.T).toarray()
    kernel_AA[np.diag_indices_from(kernel_AA)] += np.float32(LATE_RIDGE)
    dual_AC = np.zeros((len(active_A), len(late)), np.float32)
    if dual_AC.size:
        dual_AC = solve(kernel_AA, new_AM[:, late].toarray(), assume_a="pos")
    return had_AM, np.ascontiguousarray(dual_AC, np.float32), items_M[late]


def _table(
    rows_P: Ints, ordinals_P: Ints, span: int, users: int | None = None
) -> scipy.sparse.csr_matrix:
    """(U, S): 1 where there is a pair, however often."""
    users = int(rows_P.max()) + 1 if users is None else users
    ones = np.ones(len(rows_P), np.float32)
    table = scipy.sparse.csr_matrix((ones, (rows_P, ordinals_P)), shape=(users, span))
    table.data[:] = 1  # duplicates were summed
    return table
