"""Inner products with vectors where they lie, without a copy of them in float32.

A list looks at some 600 candidates: to read their vectors, to make floats of them and to multiply
took three times as long one after the other. N vectors, M asked for, Q queries, D dimension.
"""

from __future__ import annotations

import platform
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ray_jobs.compiled import (
    BOOL,
    FLOAT,
    FLOATS,
    FLOATS_2D,
    INTS,
    INTS32,
    array_of,
    helper,
    kernel,
)

_SCALE = np.float32(2.0**112)
"""Between the exponents of half and single precision."""
_LINE = 32
"""Two bytes each: a line of the cache."""


@helper
def single_by_bits(half: np.uint16) -> np.float32:
    """A finite number of half precision, on whatever processor."""
    bits = np.uint32(half)
    size = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13)).view(np.float32) * _SCALE
    return -size if bits & np.uint32(0x8000) else size


@intrinsic
def single_by_processor(_: Any, half: Any) -> tuple[Any, Any]:
    """The same by its own instruction: 65 us for 726 vectors and two queries instead of 120."""

    def made(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), made


def _has_instruction() -> bool:
    """All x86 since 2012, and all 64-bit ARM. Elsewhere LLVM would call a library."""
    if platform.machine() in ("arm64", "aarch64"):
        return True
    return bool(llvmlite.binding.get_host_cpu_features().get("f16c", False))


_single: Any = single_by_processor if _has_instruction() else single_by_bits


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
    from memory at once, where one after the other each would be waited for.

    Two queries at a time, and places without a sign, which cannot count from the end: a third of
    the time (one query alone is its own neighbour)."""
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
    for left in range(0, queries, 2):
        right = min(left + 1, queries - 1)
        left_D, right_D = queries_QD[left], queries_QD[right]
        for place in range(len(wanted_M)):
            if not found_M[place]:
                continue
            start = np.uint64(starts_M[place])
            of_left, of_right = np.float32(0), np.float32(0)
            if is_half:
                for d in range(np.uint64(dim)):
                    value = _single(memory[start + d])
                    of_left += value * left_D[d]
                    of_right += value * right_D[d]
            else:
                for d in range(np.uint64(dim)):
                    low, high = memory[start + 2 * d], memory[start + 2 * d + 1]
                    bits = np.uint32(np.uint32(low) | (np.uint32(high) << np.uint32(16)))
                    value = bits.view(np.float32)
                    of_left += value * left_D[d]
                    of_right += value * right_D[d]
            dots_MQ[place, left] = of_left
            dots_MQ[place, right] = of_right
    return found_M, dots_MQ, touched


@kernel(array_of(types.uint16, 2), INTS, INTS, FLOATS, FLOAT, reordered=True)
def scores_of_lists(
    codes_ND: NDArray[np.uint16],
    begins_L: NDArray[np.int64],
    lists_P: NDArray[np.int64],
    query_D: NDArray[np.float32],
    least: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows of these lists whose product with the query is `least` or more, and the products, in
    no order. List l has the rows from `begins_L[l]` to `begins_L[l + 1]`, in half precision; a
    number of a list that is negative is of none."""
    count, dim = 0, codes_ND.shape[1]
    for number in lists_P:
        if number >= 0:
            count += begins_L[number + 1] - begins_L[number]
    rows, scores = np.empty(count, np.int64), np.empty(count, np.float32)
    found = 0
    for number in lists_P:
        if number < 0:
            continue
        for row in range(begins_L[number], begins_L[number + 1]):
            code_D, score = codes_ND[row], np.float32(0)
            for d in range(np.uint64(dim)):
                score += _single(code_D[d]) * query_D[d]
            if score >= least:
                rows[found], scores[found] = row, score
                found += 1
    return rows[:found], scores[:found]
