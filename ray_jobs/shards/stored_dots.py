"""Inner products with vectors where they lie, without a copy of them in float32.

A list looks at some 600 candidates: to read their vectors, to make floats of them and to multiply
took three times as long one after the other. N vectors, M asked for, Q queries, D dimension.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from ray_jobs.compiled import BOOL, FLOATS_2D, INTS, INTS32, array_of, helper, kernel

_SCALE = np.float32(2.0**112)
"""Between the exponents of half and single precision."""
_LINE = 32
"""Two bytes each: a line of the cache."""


@helper
def _single(half: np.uint16) -> np.float32:
    """A finite number of half precision."""
    bits = np.uint32(half)
    size = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13)).view(np.float32) * _SCALE
    return -size if bits & np.uint32(0x8000) else size


@kernel(array_of(types.uint16), INTS, BOOL, INTS32, INTS, INTS, FLOATS_2D, reordered=True)
def stored_dots(
    memory: NDArray[np.uint16],
    places_N: NDArray[np.int64],
    is_half: bool,
    row_S: NDArray[np.int32],
    ordinals_N: NDArray[np.int64],
    wanted_M: NDArray[np.int64],
    queries_QD: NDArray[np.float32],
) -> tuple[NDArray[np.bool_], NDArray[np.float32], int]:
    """Which are there (M,), and their products (M, Q). Row n begins in `memory` at byte
    `places_N[n]`, which is even, in half precision or single; `row_S` and `ordinals_N`: see
    `OrdinalRows`. The last number says nothing: it is of a first walk that has all rows fetched
    from memory at once, where one after the other each would be waited for."""
    queries, dim = queries_QD.shape
    found_M = np.zeros(len(wanted_M), np.bool_)
    dots_MQ = np.zeros((len(wanted_M), queries), np.float32)
    starts_M = np.empty(len(wanted_M), np.int64)
    width, touched = dim if is_half else 2 * dim, 0
    for place in range(len(wanted_M)):
        ordinal, row = wanted_M[place], -1
        if len(row_S):
            if 0 <= ordinal < len(row_S):
                row = row_S[ordinal]
        elif len(ordinals_N):
            first = np.searchsorted(ordinals_N, ordinal)
            if first < len(ordinals_N) and ordinals_N[first] == ordinal:
                row = first
        if row >= 0:
            found_M[place] = True
            starts_M[place] = places_N[row] >> 1
            for line in range(0, width, _LINE):
                touched += memory[starts_M[place] + line]
    vector_D = np.empty(dim, np.float32)
    for place in range(len(wanted_M)):
        if not found_M[place]:
            continue
        start = starts_M[place]
        if is_half:
            for d in range(dim):
                vector_D[d] = _single(memory[start + d])
        else:
            for d in range(dim):
                low, high = np.uint32(memory[start + 2 * d]), np.uint32(memory[start + 2 * d + 1])
                vector_D[d] = np.uint32(low | (high << np.uint32(16))).view(np.float32)
        for query in range(queries):
            total = np.float32(0)
            for d in range(dim):
                total += vector_D[d] * queries_QD[query, d]
            dots_MQ[place, query] = total
    return found_M, dots_MQ, touched
