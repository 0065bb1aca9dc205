"""Inner products with vectors where they lie, without a copy of them in float32.

A list looks at some 600 candidates: to read their vectors, to make floats of them and to multiply
took three times as long one after the other. N vectors, M asked for, Q queries, D dimension.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import BOOL, BYTES, FLOATS_2D, INTS, INTS32, helper, kernel

_SCALE = np.float32(2.0**112)
"""Between the exponents of half and single precision."""


@helper
def _single(half: np.uint16) -> np.float32:
    """A finite number of half precision."""
    bits = np.uint32(half)
    size = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13)).view(np.float32) * _SCALE
    return -size if bits & np.uint32(0x8000) else size


@kernel(BYTES, INTS, BOOL, INTS32, INTS, INTS, FLOATS_2D, reordered=True)
def stored_dots(
    memory: NDArray[np.uint8],
    places_N: NDArray[np.int64],
    is_half: bool,
    row_S: NDArray[np.int32],
    ordinals_N: NDArray[np.int64],
    wanted_M: NDArray[np.int64],
    queries_QD: NDArray[np.float32],
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which are there (M,), and their products (M, Q). Row n lies in `memory` from
    `places_N[n]` on, in half precision or single; `row_S` and `ordinals_N`: see `OrdinalRows`."""
    queries, dim = queries_QD.shape
    found_M = np.zeros(len(wanted_M), np.bool_)
    dots_MQ = np.zeros((len(wanted_M), queries), np.float32)
    code = np.empty(dim * (2 if is_half else 4), np.uint8)
    vector_D = np.empty(dim, np.float32)
    for place in range(len(wanted_M)):
        ordinal, row = wanted_M[place], -1
        if len(row_S):
            if 0 <= ordinal < len(row_S):
                row = row_S[ordinal]
        elif len(ordinals_N):
            first = np.searchsorted(ordinals_N, ordinal)
            if first < len(ordinals_N) and ordinals_N[first] == ordinal:
                row = first
        if row < 0:
            continue
        found_M[place] = True
        start = places_N[row]
        for byte in range(len(code)):
            code[byte] = memory[start + byte]
        if is_half:
            halves_D = code.view(np.uint16)
            for d in range(dim):
                vector_D[d] = _single(halves_D[d])
        else:
            singles_D = code.view(np.float32)
            for d in range(dim):
                vector_D[d] = singles_D[d]
        for query in range(queries):
            total = np.float32(0)
            for d in range(dim):
                total += vector_D[d] * queries_QD[query, d]
            dots_MQ[place, query] = total
    return found_M, dots_MQ
