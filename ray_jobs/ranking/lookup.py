"""Look-ups among ascending ordinals: which row each has, and what is kept there.

Shapes: N ordinals that are known, M that are asked for, D values of each.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def check_ascending(ordinals: Ints) -> None:
    """Raises ValueError where they do not ascend, or one is negative."""
    if len(ordinals) and (ordinals[0] < 0 or not (ordinals[1:] > ordinals[:-1]).all()):
        raise ValueError("ordinals that do not ascend from 0 or more")


def rows_in(ascending_N: Ints, wanted_M: Ints) -> Ints:
    """Row of each wanted ordinal, -1 where there is none."""
    if not len(ascending_N):
        return np.full(len(wanted_M), -1)
    rows = np.minimum(np.searchsorted(ascending_N, wanted_M), len(ascending_N) - 1)
    return np.where(ascending_N[rows] == wanted_M, rows, -1)


def at_rows(ascending_N: Ints, sums_ND: Floats, wanted_M: Ints) -> Floats:
    """Rows of `sums_ND` of the wanted ordinals (M, D), 0 where there is none."""
    found = np.zeros((len(wanted_M), sums_ND.shape[1]), np.float32)
    rows = rows_in(ascending_N, wanted_M)
    known = rows >= 0
    found[known] = sums_ND[rows[known]]
    return found


def unique_sorted(values: Ints) -> Ints:
    """As np.unique, which hashes: for some hundred numbers a sort takes a fifth of the time."""
    ordered = np.sort(values)
    if len(ordered) < 2:
        return ordered
    is_new = np.empty(len(ordered), np.bool_)
    is_new[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    return ordered[is_new]
