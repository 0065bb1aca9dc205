"""Orders candidates into the list that is shown.

For now: eligibility, seen and excluded items, the retrieval score, ties by ordinal. Retrieval drops
the same items already; they are dropped here again because this is the last gate before a user, and
the only one that candidates of another source will pass.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ray_jobs.ranking.candidates import Candidates

OrdinalSet = Collection[int] | NDArray[np.int64]


def rerank(
    candidates: Candidates,
    *,
    eligible: NDArray[np.bool_] | None = None,
    seen: OrdinalSet = (),
    excluded: OrdinalSet = (),
    k: int,
    offset: int = 0,
) -> Candidates:
    """Places offset..offset+k of the list: score descending, ordinal ascending, each ordinal once.

    `eligible`: a mask over ordinals, all when None; ordinals beyond its end are not eligible.
    `seen`, `excluded`: ordinals never to show. An ordinal that repeats keeps its best score.
    Raises ValueError for k < 1 or offset < 0.
    """
    if k < 1 or offset < 0:
        raise ValueError(f"k must be at least 1 and offset at least 0; got k={k}, offset={offset}")
    keep = candidates.ordinals >= 0
    for dropped in (seen, excluded):
        if len(dropped):
            keep &= ~np.isin(candidates.ordinals, _as_array(dropped))
    if eligible is not None:
        inside = keep & (candidates.ordinals < len(eligible))
        keep = np.zeros_like(keep)
        keep[inside] = eligible[candidates.ordinals[inside]]
    kept = candidates.take(keep)
    order = np.lexsort((kept.ordinals, -kept.scores))
    first = np.sort(np.unique(kept.ordinals[order], return_index=True)[1])
    return kept.take(order[first[offset : offset + k]])


def _as_array(values: OrdinalSet) -> NDArray[np.int64]:
    if isinstance(values, np.ndarray):
        return values
    return np.fromiter(values, dtype=np.int64, count=len(values))
