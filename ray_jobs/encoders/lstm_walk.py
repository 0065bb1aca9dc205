"""The LSTM over one user's events, one after the other: products, gates and state in one loop.

A step of one user is three products of a vector with weights, and some hundred numbers of gates. As
calls of numpy the gates and the calls took as long as the products (`infra.bench.fold`).

Shapes: T events, N of them with a text, E text_dim, D dim, H hidden, G = 4H gates.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import FLOATS, FLOATS_2D, MASK, WRITTEN, WRITTEN_2D, helper, kernel

Floats = NDArray[np.float32]

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
    return tuple(
        tuple(np.float32(factor / under[0]) for factor in reversed(factors))
        for factors in (over, under)
    )  # type: ignore[return-value]


_OVER, _UNDER = lambert(LEVELS)
_FARTHEST = np.float32(8.0)
"""1 - tanh is 2e-7 there."""
_SHORTEST = np.float32(1e-12)


@helper
def _tanh(x: Any) -> Any:
    x = _FARTHEST if x > _FARTHEST else x  # not min and max: what is not finite stays so
    x = -_FARTHEST if x < -_FARTHEST else x
    y = x * x
    over = _OVER[0] * y + _OVER[1]
    over = ((over * y + _OVER[2]) * y + _OVER[3]) * y + _OVER[4]
    over = over * y + _OVER[5]
    under = _UNDER[0] * y + _UNDER[1]
    under = ((under * y + _UNDER[2]) * y + _UNDER[3]) * y + _UNDER[4]
    under = (under * y + _UNDER[5]) * y + _UNDER[6]
    return x * over / under


@helper
def _add_product(vector_X: Floats, weights_XY: Floats, sum_Y: Floats) -> None:
    """Four rows at a time, so that each sum is read and written once for them."""
    whole = len(vector_X) // 4 * 4
    for x in range(0, whole, 4):
        a, b, c, d = vector_X[x], vector_X[x + 1], vector_X[x + 2], vector_X[x + 3]
        for y in range(len(sum_Y)):
            two = a * weights_XY[x, y] + b * weights_XY[x + 1, y]
            sum_Y[y] += two + (c * weights_XY[x + 2, y] + d * weights_XY[x + 3, y])
    for x in range(whole, len(vector_X)):
        for y in range(len(sum_Y)):
            sum_Y[y] += vector_X[x] * weights_XY[x, y]


@kernel(
    *(FLOATS_2D, MASK, FLOATS_2D),
    *(FLOATS_2D, FLOATS_2D, FLOATS, FLOATS_2D),
    *(FLOATS, WRITTEN_2D, WRITTEN),
    reordered=True,
)
def lstm_walk(
    texts_NE: Floats,
    has_text_T: NDArray[np.bool_],
    given_TD: Floats,
    text_ED: Floats,
    input_DG: Floats,
    bias_G: Floats,
    hidden_HG: Floats,
    h_H: Floats,
    h_TH: Floats,
    c_H: Floats,
) -> None:
    """Fills `h_TH` with the state after each event, and takes `c_H` to the last.

    `texts_NE` are the text vectors of the events that have one, `given_TD` what each is fed beside.
    Weights and bias as `UserEncoder` lays them out: gates i, f, o, g, the first three halved, since
    sigmoid(x) = (tanh(x / 2) + 1) / 2.
    """
    hidden = len(c_H)
    input_D, gates_G = np.empty(given_TD.shape[1], np.float32), np.empty(4 * hidden, np.float32)
    half, one = np.float32(0.5), np.float32(1.0)
    text = 0
    for event in range(len(given_TD)):
        input_D[:] = given_TD[event]
        if has_text_T[event]:
            _add_product(texts_NE[text], text_ED, input_D)
            text += 1
        gates_G[:] = bias_G
        _add_product(input_D, input_DG, gates_G)
        _add_product(h_H if event == 0 else h_TH[event - 1], hidden_HG, gates_G)
        for unit in range(hidden):
            taken = half * (_tanh(gates_G[unit]) + one)
            kept = half * (_tanh(gates_G[hidden + unit]) + one)
            shown = half * (_tanh(gates_G[2 * hidden + unit]) + one)
            c = kept * c_H[unit] + taken * _tanh(gates_G[3 * hidden + unit])
            c_H[unit] = c
            h_TH[event, unit] = shown * _tanh(c)


@kernel(FLOATS, FLOATS_2D, FLOATS, WRITTEN, reordered=True)
def projected(state_H: Floats, weights_HD: Floats, bias_D: Floats, unit_D: Floats) -> None:
    """Fills `unit_D` with state @ weights + bias, scaled to length 1; shorter than 1e-12 stays near
    0, as in torch."""
    unit_D[:] = bias_D
    _add_product(state_H, weights_HD, unit_D)
    squares = np.float32(0.0)
    for unit in range(len(unit_D)):
        squares += unit_D[unit] * unit_D[unit]
    norm = np.sqrt(squares)
    unit_D /= norm if norm > _SHORTEST else _SHORTEST
