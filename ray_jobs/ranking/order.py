"""The one order of lists, as numbers: value descending, ties by ordinal.

To sort whole numbers takes a tenth of what sorting by two columns takes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import helper

TIES = 2**31 - 1
"""What a key says of two that are alike is in its last bits."""

Ints = NDArray[np.int64]


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
