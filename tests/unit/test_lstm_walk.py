"""The compiled loop over one user's events against the LSTM's formulas in float64."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ray_jobs.encoders.lstm_walk import BLOCK, LEVELS, NO_ITEM, lambert, lstm_walk, projected

Floats = NDArray[np.float32]
State = tuple[Floats, Floats, Floats]
SCALE = 0.4
WIDTHS = st.integers(1, 19)
"""Also what is no multiple of the eight rows that are added together, or two and more of them."""
Pooling = tuple[float, float, int]
"""keep, add, and whether anything is pooled."""
POOLINGS: tuple[Pooling, ...] = ((1.0, 1.0, 0), (1.0, 1.0, 1), (0.9, 0.1, 1))
"""The last state, the sum, an average."""


@dataclass(frozen=True)
class Made:
    """Random weights, events and a state to begin with."""

    fed_T4: NDArray[np.int64]
    texts_NE: Floats
    given_2KQD: Floats
    residual_ordinals_R: NDArray[np.int64]
    residual_RD: Floats
    weights: tuple[Floats, Floats, Floats, Floats]
    state: State
    pooling: Pooling

    def run(self, first: int = 0, last: int | None = None, state: State | None = None) -> State:
        """h (1, H), c and pooled after these events."""
        fed_T4, text = self.fed_T4[first:last], int(self.fed_T4[:first, 0].sum())
        texts_NE = self.texts_NE[text : text + int(fed_T4[:, 0].sum())]
        keep, add, _ = self.pooling
        h_1H, c_H, pooled_P = (array.copy() for array in state or self.state)
        given = (self.given_2KQD, self.residual_ordinals_R, self.residual_RD)
        factors = (np.float32(keep), np.float32(add))
        lstm_walk(fed_T4, texts_NE, *given, *self.weights, *factors, h_1H, c_H, pooled_P)
        return h_1H, c_H, pooled_P

    def by_the_formulas(self) -> tuple[NDArray[np.float64], ...]:
        """The same in float64."""
        text_ED, input_DG, hidden_HG, bias_G = (array.astype(np.float64) for array in self.weights)
        h_1H, c, pooled = (array.astype(np.float64) for array in self.state)
        h, texts = h_1H[0], iter(self.texts_NE.astype(np.float64))
        residuals = dict(zip(self.residual_ordinals_R.tolist(), self.residual_RD, strict=True))
        keep, add, _ = self.pooling
        for has_text, kind, bucket, ordinal in self.fed_T4.tolist():
            input_D = self.given_2KQD[has_text, kind, bucket] + residuals.get(ordinal, 0.0)
            if has_text:
                input_D = input_D + next(texts) @ text_ED
            i, f, o, g = np.split(np.tanh(input_D @ input_DG + bias_G + h @ hidden_HG), 4)
            c = (f + 1) / 2 * c + (i + 1) / 2 * g
            h = (o + 1) / 2 * np.tanh(c)
            pooled = keep * pooled + add * h[: len(pooled)]
        return h[None], c, pooled


@st.composite
def made(draw: st.DrawFn) -> Made:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    events, text, dim, hidden = draw(st.integers(1, 2 * BLOCK + 3)), *(draw(WIDTHS) for _ in "edh")
    pooling, residuals = draw(st.sampled_from(POOLINGS)), draw(st.integers(0, 3))

    def drawn(*shape: int) -> Floats:
        return (SCALE * rng.normal(size=shape)).astype(np.float32)

    has_text_T = rng.random(events) < draw(st.sampled_from((0.0, 0.6, 1.0)))
    fed_T4 = np.column_stack([has_text_T, *rng.integers((2, 3, 5), size=(events, 3)).T])
    fed_T4[:, 3] -= 1  # NO_ITEM, or an ordinal that may have a residual
    residual_ordinals_R = np.sort(rng.choice(4, residuals, replace=False)).astype(np.int64)
    return Made(
        fed_T4=np.ascontiguousarray(fed_T4, np.int64),
        texts_NE=drawn(int(has_text_T.sum()), text),
        given_2KQD=drawn(2, 2, 3, dim),
        residual_ordinals_R=residual_ordinals_R,
        residual_RD=drawn(residuals, dim),
        weights=(
            drawn(text, dim),
            drawn(dim, 4 * hidden),
            drawn(hidden, 4 * hidden),
            drawn(4 * hidden),
        ),
        state=(np.tanh(drawn(1, hidden)), drawn(hidden), drawn(pooling[2] * hidden)),
        pooling=pooling,
    )


@settings(deadline=None)
@given(made())
def test_the_state_is_the_one_of_the_formulas(of: Made) -> None:
    for found, wanted in zip(of.run(), of.by_the_formulas(), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@settings(deadline=None)
@given(made(), st.data())
def test_a_walk_gives_the_same_bits_wherever_it_is_cut(of: Made, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(of.fed_T4)))
    whole, joined = of.run(), of.run(cut, None, of.run(0, cut))
    for found, wanted in zip(joined, whole, strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_the_quotient_is_tanh_wherever_it_is_asked() -> None:
    over, under = (np.array(factors, np.float64) for factors in lambert(LEVELS))
    x = np.linspace(-8, 8, 10_001)
    np.testing.assert_allclose(
        x * np.polyval(over, x * x) / np.polyval(under, x * x), np.tanh(x), atol=2e-7
    )


def test_what_is_no_number_is_not_hidden() -> None:
    def filled(*shape: int) -> Floats:
        return np.full(shape, 0.3, np.float32)

    of = Made(
        fed_T4=np.array([[1, 0, 0, NO_ITEM]] * 2),
        texts_NE=np.array([[1, np.nan, 1, 1], [1, 1, 1, 1]], np.float32),
        given_2KQD=filled(2, 1, 1, 4),
        residual_ordinals_R=np.zeros(0, np.int64),
        residual_RD=filled(0, 4),
        weights=(filled(4, 4), filled(4, 16), filled(4, 16), filled(16)),
        state=(filled(1, 4), filled(4), filled(4)),
        pooling=(1.0, 1.0, 1),
    )
    assert all(np.isnan(array).all() for array in of.run())


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
