"""How good a list is: NDCG@k, hit rate@k, MRR and coverage@k over the ranks of single targets.

One tie rule everywhere: of two items with the same score the one with the lower index (ordinal) is
ranked first, as the shards' merge does. A model that gives every item the same score gets no gift.

Shapes: Q questions, I items, K list length. Ranks start at 0; UNRANKED means "not in the list".
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

UNRANKED = np.iinfo(np.int64).max


def ranks_of_targets(
    scores_QI: NDArray[np.floating],
    targets_Q: NDArray[np.int64],
    barred_QI: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Rank of each question's target among all items that are not barred.

    A barred target, or one whose score is NaN, is UNRANKED; other items with NaN rank last.

    Raises:
        ValueError: shapes differ, or a target is no item.
    """
    questions, items = scores_QI.shape
    if targets_Q.shape != (questions,) or (
        barred_QI is not None and barred_QI.shape != scores_QI.shape
    ):
        raise ValueError(f"scores {scores_QI.shape}, targets {targets_Q.shape} do not fit")
    if questions and not 0 <= targets_Q.min() <= targets_Q.max() < items:
        raise ValueError(f"targets must lie in 0..{items - 1}")
    rows_Q = np.arange(questions)
    own_Q1 = scores_QI[rows_Q, targets_Q][:, None]
    earlier_QI = np.arange(items)[None, :] < targets_Q[:, None]
    better_QI = (scores_QI > own_Q1) | ((scores_QI == own_Q1) & earlier_QI)
    lost_Q = np.isnan(own_Q1[:, 0])
    if barred_QI is not None:
        better_QI &= ~barred_QI
        lost_Q |= barred_QI[rows_Q, targets_Q]
    return np.where(lost_Q, UNRANKED, better_QI.sum(axis=1)).astype(np.int64)


def top_k(
    scores_QI: NDArray[np.floating], k: int, barred_QI: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """The first k items of each question, ties by the rule above; -1 where there are fewer."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    keys_QI = np.where(np.isnan(scores_QI), -np.inf, scores_QI).astype(np.float64)
    order_QI = np.argsort(-keys_QI, axis=1, kind="stable")
    if barred_QI is not None:
        allowed_QI = ~np.take_along_axis(barred_QI, order_QI, axis=1)
        front_QI = np.argsort(~allowed_QI, axis=1, kind="stable")
        order_QI = np.take_along_axis(order_QI, front_QI, axis=1)
        allowed_QI = np.take_along_axis(allowed_QI, front_QI, axis=1)
        order_QI = np.where(allowed_QI, order_QI, -1)
    first_QK = order_QI[:, :k].astype(np.int64)
    return np.pad(first_QK, ((0, 0), (0, max(0, k - first_QK.shape[1]))), constant_values=-1)


def ndcg_at_k(ranks_Q: NDArray[np.int64], k: int) -> float:
    """Mean of 1 / log2(rank + 2) over ranks below k, else 0 (Jarvelin and Kekalainen 2002)."""
    ranks = _checked(ranks_Q, k)
    return float(np.mean(np.where(ranks < k, 1.0 / np.log2(ranks.astype(np.float64) + 2.0), 0.0)))


def hit_rate(ranks_Q: NDArray[np.int64], k: int) -> float:
    """Share of questions whose target is among the first k."""
    return float(np.mean(_checked(ranks_Q, k) < k))


def mrr(ranks_Q: NDArray[np.int64]) -> float:
    """Mean of 1 / (rank + 1) over the whole list; 0 for a target that is UNRANKED."""
    ranks = _checked(ranks_Q, 1)
    return float(np.mean(np.where(ranks == UNRANKED, 0.0, 1.0 / (ranks.astype(np.float64) + 1.0))))


def coverage(lists: Iterable[Iterable[int]], item_count: int) -> float:
    """Share of the catalog that is in at least one list; -1 (no item) is not counted."""
    if item_count < 1:
        raise ValueError(f"item_count must be at least 1, got {item_count}")
    shown = {int(item) for row in lists for item in row}
    return len(shown - {-1}) / item_count


def _checked(ranks_Q: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    ranks = np.asarray(ranks_Q, dtype=np.int64)
    if not len(ranks) or k < 1 or ranks.min() < 0:
        raise ValueError(f"need at least one rank, none negative, and k >= 1; got k {k}, {ranks}")
    return ranks
