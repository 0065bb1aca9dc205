"""The LSTM over one user's events, one after the other: products, gates and state in one loop.

A step of one user is three products of a vector with weights, and some hundred numbers of gates. As
calls of numpy the gates and the calls took as long as the products (`infra.bench.fold`).

By day and by night the same loop, and for each event the same sums in the same order, however many
events it is handed: so a history gives the same bits wherever it is cut. (On one kind of processor:
another may round a product before it is added.)

Shapes: T events, N of them with a text, B of a block, K kinds, Q rating buckets, R residuals,
E text_dim, D dim, H hidden, G = 4H gates, P what is pooled (H or 0).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import (
    FLOAT32,
    FLOATS,
    FLOATS_2D,
    FLOATS_4D,
    INTS,
    INTS_2D,
    WRITTEN,
    WRITTEN_2D,
    called,
    helper,
    kernel,
)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NO_ITEM = -1
"""In the place of an ordinal."""
BLOCK = 8
"""Events whose texts and inputs are multiplied together: weights are read once for them, and what
is added to stays in the nearest cache."""
LEVELS = 11
"""Of the continued fraction of tanh: within 4e-7 for all x, in float32."""


def lambert(levels: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Lambert's continued fraction tanh x = x / (1 + x^2 / (3 + x^2 / (5 + ...))) as a quotient of
    two polynomials in x^2 (times x): their factors in float32, the highest power first."""
    over, under = [1], [2 * levels + 1]
    for odd in range(2 * levels - 1, 0, -2):
        deeper = [0, *over] + [0] * (len(under) - len(over) - 1)
        over, under = under, [odd * factor for factor in under] + [0] * (len(deeper) - len(under))
        under = [factor + more for factor, more in zip(under, deeper, strict=True)]

    def highest_first(factors: list[int]) -> tuple[Any, ...]:
        return tuple(np.float32(factor / under[0]) for factor in reversed(factors))

    return highest_first(over), highest_first(under)


_OVER, _UNDER = lambert(LEVELS)
_FARTHEST = np.float32(8.0)
"""1 - tanh is 2e-7 there."""
_SHORTEST = np.float32(1e-12)


@helper
def _tanh(x: Any) -> Any:
    x = _FARTHEST if x > _FARTHEST else x  # not min and max: what is no number stays so
    x = -_FARTHEST if x < -_FARTHEST else x
    y = x * x
    over = _OVER[0] * y + _OVER[1]
    over = ((over * y + _OVER[2]) * y + _OVER[3]) * y + _OVER[4]
    over = over * y + _OVER[5]
    under = _UNDER[0] * y + _UNDER[1]
    under = ((under * y + _UNDER[2]) * y + _UNDER[3]) * y + _UNDER[4]
    under = (under * y + _UNDER[5]) * y + _UNDER[6]
    return x * over / under


@called
def _add_products(vectors_BX: Floats, weights_XY: Floats, sums_BY: Floats) -> None:
    """Eight rows of weights at a time, for all vectors: so each weight is read once for them, and
    each sum once for eight weights. What is added to a sum, and when, is the same for any B."""
    width = vectors_BX.shape[1]
    whole = width // 8 * 8
    for x in range(0, whole, 8):
        for row in range(len(vectors_BX)):
            a, b = vectors_BX[row, x], vectors_BX[row, x + 1]
            c, d = vectors_BX[row, x + 2], vectors_BX[row, x + 3]
            e, f = vectors_BX[row, x + 4], vectors_BX[row, x + 5]
            g, h = vectors_BX[row, x + 6], vectors_BX[row, x + 7]
            for y in range(sums_BY.shape[1]):
                total = sums_BY[row, y] + a * weights_XY[x, y] + b * weights_XY[x + 1, y]
                total = total + c * weights_XY[x + 2, y] + d * weights_XY[x + 3, y]
                total = total + e * weights_XY[x + 4, y] + f * weights_XY[x + 5, y]
                sums_BY[row, y] = total + g * weights_XY[x + 6, y] + h * weights_XY[x + 7, y]
    for x in range(whole, width):
        for row in range(len(vectors_BX)):
            for y in range(sums_BY.shape[1]):
                sums_BY[row, y] += vectors_BX[row, x] * weights_XY[x, y]


@kernel(
    *(INTS_2D, FLOATS_2D),
    *(FLOATS_4D, INTS, FLOATS_2D, FLOATS_2D, FLOATS_2D, FLOATS_2D, FLOATS, FLOAT32, FLOAT32),
    *(WRITTEN_2D, WRITTEN, WRITTEN),
)
def lstm_walk(
    fed_T4: Ints,
    texts_NE: Floats,
    given_2KQD: Floats,
    residual_ordinals_R: Ints,
    residual_RD: Floats,
    text_ED: Floats,
    input_DG: Floats,
    hidden_HG: Floats,
    bias_G: Floats,
    keep: float,
    add: float,
    h_1H: Floats,
    c_H: Floats,
    pooled_P: Floats,
) -> None:
    """Takes the state `h_1H`, `c_H` and `pooled_P` to what it is after the events.

    `fed_T4` says of each event whether it has a text, its rows in `given_2KQD`, and its ordinal or
    NO_ITEM; `texts_NE` are the vectors of those that have a text. Weights and bias as `UserEncoder`
    lays them out: gates i, f, o, g, the first three halved, since
    sigmoid(x) = (tanh(x / 2) + 1) / 2. After each event pooled = keep x pooled + add x h.
    """
    dim, hidden = input_DG.shape[0], len(c_H)
    texts_BD, inputs_BD = np.empty((BLOCK, dim), np.float32), np.empty((BLOCK, dim), np.float32)
    gates_BG = np.empty((BLOCK, 4 * hidden), np.float32)
    half, one = np.float32(0.5), np.float32(1.0)
    text = 0
    for first in range(0, len(fed_T4), BLOCK):
        count = min(BLOCK, len(fed_T4) - first)
        texts = 0
        for row in range(count):
            texts += fed_T4[first + row, 0]
        for row in range(texts):
            for column in range(dim):
                texts_BD[row, column] = np.float32(0.0)
        _add_products(texts_NE[text : text + texts], text_ED, texts_BD[:texts])
        text += texts
        texts = 0
        for row in range(count):
            has_text, kind = fed_T4[first + row, 0], fed_T4[first + row, 1]
            bucket, ordinal = fed_T4[first + row, 2], fed_T4[first + row, 3]
            for column in range(dim):
                inputs_BD[row, column] = given_2KQD[has_text, kind, bucket, column]
            if has_text:
                for column in range(dim):
                    inputs_BD[row, column] += texts_BD[texts, column]
                texts += 1
            residual = np.searchsorted(residual_ordinals_R, ordinal)
            if residual < len(residual_ordinals_R) and residual_ordinals_R[residual] == ordinal:
                for column in range(dim):
                    inputs_BD[row, column] += residual_RD[residual, column]
            for gate in range(4 * hidden):
                gates_BG[row, gate] = bias_G[gate]
        _add_products(inputs_BD[:count], input_DG, gates_BG[:count])
        for row in range(count):
            _add_products(h_1H, hidden_HG, gates_BG[row : row + 1])
            gates_G = gates_BG[row]
            for gate in range(4 * hidden):
                gates_G[gate] = _tanh(gates_G[gate])
            for unit in range(hidden):
                taken = half * (gates_G[unit] + one)
                kept = half * (gates_G[hidden + unit] + one)
                c_H[unit] = kept * c_H[unit] + taken * gates_G[3 * hidden + unit]
                shown = half * (gates_G[2 * hidden + unit] + one)
                h_1H[0, unit] = shown * _tanh(c_H[unit])
            for unit in range(len(pooled_P)):
                pooled_P[unit] = keep * pooled_P[unit] + add * h_1H[0, unit]


@kernel(FLOATS_2D, FLOATS_2D, FLOATS, WRITTEN_2D)
def projected(state_1H: Floats, weights_HD: Floats, bias_D: Floats, unit_1D: Floats) -> None:
    """Fills `unit_1D` with state @ weights + bias, scaled to length 1; shorter than 1e-12 stays
    near 0, as in torch."""
    for unit in range(len(bias_D)):
        unit_1D[0, unit] = bias_D[unit]
    _add_products(state_1H, weights_HD, unit_1D)
    squares = np.float32(0.0)
    for unit in range(len(bias_D)):
        squares += unit_1D[0, unit] * unit_1D[0, unit]
    norm = np.sqrt(squares)
    norm = norm if norm > _SHORTEST else _SHORTEST
    for unit in range(len(bias_D)):
        unit_1D[0, unit] /= norm
