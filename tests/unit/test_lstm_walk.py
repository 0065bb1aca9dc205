"""The compiled loop over one user's events against the LSTM's formulas in float64."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ray_jobs.encoders.lstm_walk import LEVELS, lambert, lstm_walk, projected

WIDTHS = st.integers(1, 9)
"""Also what is no multiple of the rows that are added together."""


def walked(
    rng: np.random.Generator, events: int, text: int, dim: int, hidden: int, scale: float
) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_], list[NDArray[np.float32]]]:
    """Arguments of the walk: texts and given, which have a text, and weights and state."""

    def drawn(*shape: int) -> NDArray[np.float32]:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    has_text_T = rng.random(events) < 0.6
    fed = [drawn(int(has_text_T.sum()), text), drawn(events, dim)]
    weights = [
        drawn(text, dim),
        drawn(dim, 4 * hidden),
        drawn(4 * hidden),
        drawn(hidden, 4 * hidden),
    ]
    return fed, has_text_T, [*weights, np.tanh(drawn(hidden)), drawn(hidden)]


def run(
    fed: list[NDArray[np.float32]], has_text_T: NDArray[np.bool_], rest: list[NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    *weights, h_H, c_H = rest
    h_TH, after_H = np.empty((len(fed[1]), len(h_H)), np.float32), c_H.copy()
    lstm_walk(fed[0], has_text_T, fed[1], *weights, h_H[None], h_TH, after_H)
    return h_TH, after_H


def by_the_formulas(
    fed: list[NDArray[np.float32]], has_text_T: NDArray[np.bool_], rest: list[NDArray[np.float32]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    texts, given_TD, text_ED, input_DG, bias_G, hidden_HG, h, c = (
        array.astype(np.float64) for array in (*fed, *rest)
    )
    states, text = [], iter(texts)
    for has_text, input_D in zip(has_text_T, given_TD, strict=True):
        if has_text:
            input_D = input_D + next(text) @ text_ED
        i, f, o, g = np.split(np.tanh(input_D @ input_DG + bias_G + h @ hidden_HG), 4)
        c = (f + 1) / 2 * c + (i + 1) / 2 * g
        h = (o + 1) / 2 * np.tanh(c)
        states.append(h)
    return np.array(states), c


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    WIDTHS,
    WIDTHS,
    WIDTHS,
    st.sampled_from((0.3, 1, 4)),
)
def test_each_state_is_the_one_of_the_formulas(
    seed: int, events: int, text: int, dim: int, hidden: int, scale: float
) -> None:
    arguments = walked(np.random.default_rng(seed), events, text, dim, hidden, scale)
    h_TH, c_H = run(*arguments)
    wanted_TH, wanted_H = by_the_formulas(*arguments)
    # Large gates are sums of large numbers in float32: what they lose there comes from no formula.
    near = 3e-6 if scale < 4 else 3e-4
    np.testing.assert_allclose(h_TH, wanted_TH, atol=near)
    np.testing.assert_allclose(c_H, wanted_H, atol=near)


def test_the_quotient_is_tanh_wherever_it_is_asked() -> None:
    over, under = (np.array(factors, np.float64) for factors in lambert(LEVELS))
    x = np.linspace(-8, 8, 10_001)
    np.testing.assert_allclose(
        x * np.polyval(over, x * x) / np.polyval(under, x * x), np.tanh(x), atol=2e-7
    )


def test_what_is_no_number_is_not_hidden() -> None:
    fed, _, rest = walked(np.random.default_rng(1), 2, 4, 4, 4, 0.3)
    fed[0] = np.array([[1, np.nan, 1, 1], [1, 1, 1, 1]], np.float32)
    h_TH, c_H = run(fed, np.array([True, True]), rest)
    assert np.isnan(h_TH).all()
    assert np.isnan(c_H).all()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), WIDTHS, WIDTHS, st.sampled_from((1e-20, 1, 1e6)))
def test_a_projected_state_has_length_one_unless_it_is_nothing(
    seed: int, hidden: int, dim: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    state_H, weights_HD, bias_D = (
        rng.normal(size=shape).astype(np.float32) for shape in (hidden, (hidden, dim), dim)
    )
    state_H, bias_D = state_H * np.float32(scale), bias_D * np.float32(scale)
    unit_1D = np.empty((1, dim), np.float32)
    projected(state_H[None], weights_HD, bias_D, unit_1D)
    wanted_D = state_H.astype(np.float64) @ weights_HD + bias_D
    length = max(float(np.linalg.norm(wanted_D)), 1e-12)
    # Where terms cancel out, what float32 keeps of them is less than of the sum.
    terms = np.abs(state_H) @ np.abs(weights_HD) + np.abs(bias_D)
    near = max(2e-6 * float(np.max(terms)) / length, 1e-6)
    np.testing.assert_allclose(unit_1D[0], wanted_D / length, atol=near)
