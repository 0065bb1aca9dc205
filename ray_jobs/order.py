"""The one order of lists: score descending, ties by ordinal ascending, each ordinal once.

As whole numbers, which are sorted in a tenth of the time that two columns take. Loops of both
shelves, search and ranking. N rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import BOOL, FLOATS, INTS, MASK, helper, kernel

TIES = 2**31 - 1
"""What a key says of two that are alike is in its last bits."""

_LAST = 2**63 - 1
_NO_MASK = np.zeros(0, np.bool_)

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def ranked_rows(
    scores_N: Floats,
    ordinals_N: Ints,
    hidden: Ints,
    eligible: Mask | None = None,
    *,
    are_distinct: bool = False,
) -> NDArray[np.intp]:
    """The rows in their order, of an ordinal that repeats its best; without negative ordinals
    (padding), those `hidden`, which ascend, and those not `eligible` (a mask over ordinals, all
    when None; ordinals beyond its end are not). `are_distinct`: none repeats, so none is looked
    for, which takes as long as the rest."""
    keys_N, count, may_repeat = _keys(
        *map(np.ascontiguousarray, (scores_N, ordinals_N, hidden)),
        *(_NO_MASK if eligible is None else eligible, eligible is not None),
    )
    if count < 0:
        kept = keys_N != _LAST
        rows = np.lexsort((ordinals_N, -scores_N))
        rows = rows[kept[rows]]
    else:
        rows = keys_N.argsort()[:count]
    if may_repeat and not are_distinct:
        found = ordinals_N[rows]
        ascending = np.sort(found)
        if (ascending[1:] == ascending[:-1]).any():
            rows = rows[np.sort(np.unique(found, return_index=True)[1])]
    return rows


@helper
def key_of(value: np.float32, tie: int) -> int:
    """A number that is the smaller the larger `value` is; of equal ones that of the smaller `tie`,
    which is below 2**31."""
    bits = np.int64(np.float32(value + np.float32(0)).view(np.int32))  # + 0: there is one zero
    if bits < 0:
        bits = -(bits & TIES) - 1
    return int(((TIES - bits) << 31) | tie)


@helper
def smallest(keys: Ints, wanted: int) -> Ints:
    """The `wanted` smallest keys, or all, in no order. Counted by their first bits, so that only
    those which are on the edge are sorted."""
    if len(keys) <= wanted:
        return keys
    counts = np.zeros(1 << 12, np.int64)
    for key in keys:
        counts[key >> 51] += 1
    edge, below = 0, 0
    while below + counts[edge] < wanted:
        below += counts[edge]
        edge += 1
    found, on_edge = np.empty(wanted, np.int64), np.empty(counts[edge], np.int64)
    count, others = 0, 0
    for key in keys:
        if key >> 51 < edge:
            found[count] = key
            count += 1
        elif key >> 51 == edge:
            on_edge[others] = key
            others += 1
    on_edge.sort()
    found[count:] = on_edge[: wanted - count]
    return found


@helper
def row_in(ascending: Ints, ordinal: int) -> int:
    """Its row, -1 where it is not there. A search without a branch that depends on what is found: a
    third of np.searchsorted's."""
    first, count = 0, len(ascending)
    while count > 1:
        half = count // 2
        first += half * (ascending[first + half] <= ordinal)
        count -= half
    return first if count == 1 and ascending[first] == ordinal else -1


@kernel(FLOATS, INTS, INTS, MASK, BOOL)
def _keys(
    scores_N: Floats, ordinals_N: Ints, hidden: Ints, eligible: Mask, is_filtered: bool
) -> tuple[Ints, int, bool]:
    """The key (N,) of each row, the largest number where it may not be shown; how many may, or -1
    where an ordinal is too large for a key; and whether one may repeat: not where they ascend."""
    keys_N = np.full(len(scores_N), _LAST, np.int64)
    count, is_too_large, may_repeat, before = 0, False, False, -1
    for row in range(len(scores_N)):
        ordinal = ordinals_N[row]
        may_repeat |= ordinal <= before
        before = ordinal
        is_too_large |= ordinal > TIES
        if (
            ordinal >= 0
            and (not is_filtered or (ordinal < len(eligible) and eligible[ordinal]))
            and row_in(hidden, ordinal) < 0
        ):
            keys_N[row] = key_of(scores_N[row], ordinal & TIES)
            count += 1
    return keys_N, -1 if is_too_large else count, may_repeat
