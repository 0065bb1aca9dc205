"""How many lists to probe: the fewest that reach a promised recall, measured on sampled queries.

The night does this once its shards are written (`ray_jobs.nightly.build`), with user vectors, which
lie further from the items than items from each other; the manifest keeps the number (`nprobe`).

An item is found if the list it lies in is probed, so the ranks of the lists of the true nearest
tell the recall at every nprobe at once, without a search. What the ranks cannot tell is what fp16
changes at the k-th place: so the shards themselves are asked before the number is written.

B = queries, K = true nearest of each, N = items, D = dimension, L = lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.merge import Ordinals

RECALL_AT = 100
CONFIDENCE_ERRORS = 2.0
"""The mean recall of the sample must lie so many standard errors above the promise: of forty nights
one is then below it, and by little."""
GROWTH = 1.1
"""By how much nprobe grows where the shards find less than the ranks say."""
RANK_QUERIES = 128
"""Queries whose centroids are ranked at once: 34 MB at 65,536 lists."""


@dataclass(frozen=True, slots=True)
class Probing:
    """`nprobe`, and the recall@K (mean over queries) that the shards showed with it."""

    nprobe: int
    recall: float


def exact_nearest(
    queries_BD: NDArray[np.float32],
    vectors_ND: NDArray[np.float32],
    ordinals_N: Ordinals,
    k: int = RECALL_AT,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (B, K) and ordinals (B, K) of the largest inner products, K = min(k, N)."""
    scores_rows: tuple[Any, NDArray[np.int64]] = faiss.knn(
        np.ascontiguousarray(queries_BD),
        np.ascontiguousarray(vectors_ND),
        min(k, len(vectors_ND)),
        metric=faiss.METRIC_INNER_PRODUCT,
    )
    rows_BK = scores_rows[1]
    return rows_BK, ordinals_N[rows_BK]


def recalls_of(found_BK: Ordinals, true_BK: Ordinals) -> NDArray[np.float64]:
    """The share of each query's true nearest that was found: (B,). Padding (-1) finds nothing."""
    hits = [len(np.intersect1d(found, true)) for found, true in zip(found_BK, true_BK, strict=True)]
    recalls_B: NDArray[np.float64] = np.array(hits, np.float64) / true_BK.shape[1]
    return recalls_B


def list_ranks(
    coarse: Any, queries_BD: NDArray[np.float32], nearest_BKD: NDArray[np.float32]
) -> NDArray[np.int64]:
    """For each true nearest (B, K), how many lists a query probes before the one it lies in."""
    centroids_LD = coarse.reconstruct_n(0, coarse.ntotal)
    _, lists_M1 = coarse.search(nearest_BKD.reshape(-1, nearest_BKD.shape[2]), 1)
    lists_BK = lists_M1.reshape(nearest_BKD.shape[:2])
    ranks_BK = np.empty(lists_BK.shape, np.int64)
    for first in range(0, len(queries_BD), RANK_QUERIES):
        scores_BL = queries_BD[first : first + RANK_QUERIES] @ centroids_LD.T
        for row, scores_L in enumerate(scores_BL, start=first):
            ascending_L = np.sort(scores_L)
            above_K = np.searchsorted(ascending_L, scores_L[lists_BK[row]], side="right")
            ranks_BK[row] = len(ascending_L) - above_K
    return ranks_BK


def fewest_lists(ranks_BK: NDArray[np.int64], nlist: int, promised: float) -> int:
    """The smallest nprobe whose recall is above the promise by CONFIDENCE_ERRORS; nlist if none."""
    low, high = 1, nlist
    while low < high:
        middle = (low + high) // 2
        if _surely(np.mean(ranks_BK < middle, axis=1)) >= promised:
            high = middle
        else:
            low = middle + 1
    return low


def choose_nprobe(
    coarse: Any,
    queries_BD: NDArray[np.float32],
    vectors_ND: NDArray[np.float32],
    ordinals_N: Ordinals,
    search: Callable[[NDArray[np.float32], int, int], Ordinals],
    promised: float,
) -> Probing:
    """The fewest lists with which recall@RECALL_AT on queries like these is as promised.

    `search(queries_BD, k, nprobe)`: ordinals (B, k) as the shards find them. Raises ValueError for
    a promise outside 0..1, and without queries or items.
    """
    if not 0.0 <= promised <= 1.0 or not len(queries_BD) or not len(vectors_ND):
        raise ValueError(
            f"recall {promised} must be in 0..1, of {len(queries_BD)} queries and "
            f"{len(vectors_ND)} items at least one each"
        )
    rows_BK, true_BK = exact_nearest(queries_BD, vectors_ND, ordinals_N)
    ranks_BK = list_ranks(coarse, queries_BD, vectors_ND[rows_BK])
    nprobe = fewest_lists(ranks_BK, coarse.ntotal, promised)
    while True:
        recalls_B = recalls_of(search(queries_BD, true_BK.shape[1], nprobe), true_BK)
        if nprobe == coarse.ntotal or _surely(recalls_B) >= promised:
            return Probing(nprobe, float(recalls_B.mean()))
        nprobe = min(coarse.ntotal, int(np.ceil(nprobe * GROWTH)))


def _surely(recalls_B: NDArray[np.float64]) -> float:
    """The mean less its uncertainty."""
    error = float(recalls_B.std(ddof=1)) / np.sqrt(len(recalls_B)) if len(recalls_B) > 1 else 0.0
    return float(recalls_B.mean()) - CONFIDENCE_ERRORS * error
