"""The rows of the table: what each changes of what ships, and nothing else.

A row whose `about` is empty is what the others are compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from infra.evaluation.ablations.models import (
    CountGate,
    DotProduct,
    ResidualOnly,
    SampledUncorrected,
    SeedGates,
    SeenInSoftmax,
)
from ray_jobs.encoders.config import KINDS
from ray_jobs.encoders.fit import MakeLoss, MakeModel, TrainConfig, shipped_model
from ray_jobs.encoders.fit_loss import CatalogSoftmax
from ray_jobs.encoders.train_data import Ints, TrainData

SAMPLE = 200
"""Candidates of the sampled softmax: a seventh of MovieLens, as 20,000 are of a larger catalog."""
NO_ITEM_HAS_SO_MANY = 10**9
DAY_MS = 86_400_000
GAPS_MS = (1, 60_000, 600_000, 3_600_000, DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
"""Edges of the time since the event before: at once, within a minute, ... within a month."""


def _same(config: TrainConfig) -> TrainConfig:
    return config


def _as_logged(data: TrainData, at_ms_E: Ints) -> TrainData:
    return data


@dataclass(frozen=True, slots=True)
class Variant:
    """One row. `data` gets the events and their times; `last`: of a history only so many events
    are read when the list is asked for; `cleaning`: see `texts.CLEANINGS`."""

    name: str
    about: str
    recipe: Callable[[TrainConfig], TrainConfig] = _same
    data: Callable[[TrainData, Ints], TrainData] = _as_logged
    model: MakeModel = shipped_model
    loss: MakeLoss = CatalogSoftmax
    last: int | None = None
    cleaning: str = "shipped"


def _plain(config: TrainConfig) -> TrainConfig:
    return replace(config, input_dropout=0, state_dropout=0, residual_dropout=0)


def _text_only(config: TrainConfig) -> TrainConfig:
    return replace(config, residual_min_events=NO_ITEM_HAS_SO_MANY)


def _without_values(data: TrainData, at_ms_E: Ints) -> TrainData:
    return replace(data, values_E=np.full_like(data.values_E, np.nan))


def _kinds_by_value(data: TrainData, at_ms_E: Ints) -> TrainData:
    """Favourites are what got 5, clicks what got 1 or 2, and nobody rates."""
    kinds_E = data.kinds_E.copy()
    kinds_E[data.values_E >= 4.5] = KINDS.index("favourite")
    kinds_E[data.values_E < 2.5] = KINDS.index("click")
    return _without_values(replace(data, kinds_E=kinds_E), at_ms_E)


def _gaps_as_values(data: TrainData, at_ms_E: Ints) -> TrainData:
    """The place of the rating goes to the time since the user's event before."""
    gaps_E = np.diff(at_ms_E, prepend=at_ms_E[:1])
    gaps_E[data.offsets_U1[:-1]] = 0
    buckets_E = np.searchsorted(GAPS_MS, gaps_E, side="right")
    return replace(data, values_E=buckets_E.astype(np.float32))


SHIPPED = Variant("shipped", "")

VARIANTS: tuple[Variant, ...] = (
    SHIPPED,
    Variant("pooling: mean", "pooling", lambda c: replace(c, pooling="mean")),
    Variant("pooling: exponential average (0.9)", "pooling", lambda c: replace(c, pooling="ema")),
    Variant("output gate reads the cell", "gates", model=SeedGates),
    Variant(
        "mean, and output gate reads the cell",
        "gates",
        lambda c: replace(c, pooling="mean"),
        model=SeedGates,
    ),
    Variant("text only", "items", _text_only),
    Variant("residual only", "items", model=ResidualOnly),
    Variant("residual gated by the item's events", "items", model=CountGate),
    Variant("dot product instead of cosine", "items", model=DotProduct),
    Variant("without ratings", "inputs", data=_without_values),
    Variant("kinds of events in place of ratings", "inputs", data=_kinds_by_value),
    Variant("time gaps in place of ratings", "inputs", data=_gaps_as_values),
    Variant("seen items stay in the softmax", "loss", loss=SeenInSoftmax),
    Variant("sampled softmax, log Q corrected", "loss", lambda c: replace(c, softmax_items=SAMPLE)),
    Variant(
        "sampled softmax, not corrected",
        "loss",
        lambda c: replace(c, softmax_items=SAMPLE),
        loss=SampledUncorrected,
    ),
    Variant("no dropout", "size", _plain),
    Variant(
        "dropout 0.4",
        "size",
        lambda c: replace(c, input_dropout=0.4, state_dropout=0.4, residual_dropout=0.4),
    ),
    Variant("hidden 64", "size", lambda c: replace(c, hidden=64)),
    Variant("hidden 256", "size", lambda c: replace(c, hidden=256)),
    Variant("3 epochs", "size", lambda c: replace(c, epochs=3)),
    Variant("6 epochs", "size", lambda c: replace(c, epochs=6)),
    Variant("24 epochs", "size", lambda c: replace(c, epochs=24)),
    *(Variant(f"the last {n} events read", "window", last=n) for n in (10, 20, 50, 100, 200)),
)

AGAIN: tuple[Variant, ...] = tuple(
    row
    for row in VARIANTS
    if row.name in (SHIPPED.name, "no dropout", "24 epochs") or row.name.startswith("sampled")
)
"""Far enough ahead of what ships on validation to be measured with more seeds."""

OF_TEXTS: tuple[Variant, ...] = (
    SHIPPED,
    Variant("markup left in", "texts", cleaning="markup left in"),
    Variant("without stop words", "texts", cleaning="without stop words"),
    Variant("without punctuation", "texts", cleaning="without punctuation"),
    Variant("stemmed", "texts", cleaning="stemmed"),
    Variant(
        "stop words, punctuation, endings", "texts", cleaning="stop words, punctuation, endings"
    ),
    Variant("text only", "items", _text_only),
    Variant(
        "text only, stop words, punctuation, endings",
        "items, texts",
        _text_only,
        cleaning="stop words, punctuation, endings",
    ),
)
