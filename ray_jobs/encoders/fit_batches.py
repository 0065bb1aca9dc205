"""Histories become training batches: windows of at most max_len steps, padded beside their like.

Shapes: B windows, L positions, E events, U users.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_jobs.encoders.config import EXCLUDING_KINDS, KINDS, SEEN_KINDS, UserLSTMConfig
from ray_jobs.encoders.train_data import Ints, TrainData
from ray_jobs.encoders.user_lstm import NO_RESIDUAL, UNKNOWN_TEXT, EventBatch

Window = tuple[int, int]
"""First event and last event (inclusive): steps first .. last - 1 predict first + 1 .. last."""

NO_TARGET = -1
LENGTH_JITTER = 0.2
"""Windows are sorted by length times 1..1.2: little padding, other neighbours each epoch."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Events as the model reads them; each (E,) int64."""

    texts_E: Ints
    residuals_E: Ints
    kinds_E: Ints
    ratings_E: Ints
    targets_E: Ints
    """Catalog position worth predicting, or NO_TARGET."""
    barred_E: Ints
    """Catalog position not to be recommended after this event (seen, excluded), or NO_TARGET."""
    starts_E: Ints
    """First event of the same user."""
    moments_E: Ints
    """First event of the same user and time."""

    def batch(self, spans: Sequence[tuple[int, int]]) -> EventBatch:
        """The events first .. last (exclusive) of each span, padded behind."""
        return EventBatch(
            texts_BL=_padded(self.texts_E, spans, UNKNOWN_TEXT),
            residuals_BL=_padded(self.residuals_E, spans, NO_RESIDUAL),
            kinds_BL=_padded(self.kinds_E, spans, 0),
            ratings_BL=_padded(self.ratings_E, spans, 0),
        )

    def next_targets(self, windows: Sequence[Window]) -> Tensor:
        """(B, L) what comes after each step; NO_TARGET where nothing of the window was before."""
        targets_BL = _padded(self.targets_E, [(a + 1, b + 1) for a, b in windows], NO_TARGET)
        return torch.where(self.asked_at(windows) >= 0, targets_BL, NO_TARGET)

    def asked_at(self, windows: Sequence[Window]) -> Tensor:
        """(B, L) the step of the window after which each of `next_targets` is asked for: the last
        one before its moment, negative where that lies before the window."""
        spans = [(first + 1, last + 1) for first, last in windows]
        firsts_B1 = torch.tensor([[first] for first, _ in windows])
        return _padded(self.moments_E, spans, 0) - 1 - firsts_B1

    def barred(self, windows: Sequence[Window]) -> "Barred":
        """What each window's user had seen: before the window, and step by step in it."""
        before_row, before_item = [], []
        for row, (first, _) in enumerate(windows):
            items = self.barred_E[self.starts_E[first] : first]
            items = items[items != NO_TARGET]
            before_item.append(items)
            before_row.append(np.full(len(items), row))
        return Barred(
            before_rows_S=torch.from_numpy(np.concatenate(before_row)),
            before_items_S=torch.from_numpy(np.concatenate(before_item)),
            within_BL=_padded(self.barred_E, windows, NO_TARGET),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Barred:
    """Items that the answer may not hold, for a batch of windows."""

    before_rows_S: Tensor
    before_items_S: Tensor
    """Pairs (window, catalog position) from before the window: barred at all of its steps."""
    within_BL: Tensor
    """Catalog position barred from this step on, or NO_TARGET."""

    def to(self, device: torch.device | str) -> "Barred":
        """The same there."""
        return Barred(
            self.before_rows_S.to(device), self.before_items_S.to(device), self.within_BL.to(device)
        )


def columns_of(data: TrainData, config: UserLSTMConfig, residual_rows_I: Ints) -> Columns:
    """Columns for a model; `residual_rows_I` gives each item's residual row plus one, or 0."""
    has_item_E = data.items_E >= 0
    ratings = np.searchsorted(config.rating_edges, data.values_E, side="right") + 1
    bars_K = np.array([kind in SEEN_KINDS | EXCLUDING_KINDS for kind in KINDS])
    rated_E = (data.kinds_E == KINDS.index("rating")) & ~np.isnan(data.values_E)
    return Columns(
        texts_E=data.texts_E,
        residuals_E=np.where(has_item_E, residual_rows_I[data.items_E], NO_RESIDUAL),
        kinds_E=data.kinds_E,
        ratings_E=np.where(rated_E, ratings, 0).astype(np.int64),
        targets_E=np.where(data.targets_E(), data.items_E, NO_TARGET),
        barred_E=np.where(bars_K[data.kinds_E], data.items_E, NO_TARGET),
        starts_E=np.repeat(data.offsets_U1[:-1], np.diff(data.offsets_U1)),
        moments_E=data.moments_E,
    )


def windows_of(data: TrainData, max_len: int, rng: np.random.Generator) -> list[Window]:
    """Windows over the training events of all users.

    A history longer than max_len is cut at a random phase, so that each epoch cuts elsewhere;
    neighbours share one event, so that each event but a user's first is predicted once.
    """
    windows: list[Window] = []
    trained_U = np.add.reduceat(~data.held_out_E, data.offsets_U1[:-1]) if data.user_count else ()
    counts = np.asarray(trained_U).tolist()
    for first, count in zip(data.offsets_U1[:-1].tolist(), counts, strict=True):
        last = first + count - 1
        if count < 2:
            continue
        phase = int(rng.integers(1, max_len + 1)) if count > max_len + 1 else count
        cuts = [first, *range(first + phase, last, max_len), last]
        windows += pairwise(cuts)
    return windows


def epoch_batches(
    windows: list[Window], batch_size: int, rng: np.random.Generator
) -> Iterator[list[Window]]:
    """All windows once, alike in length within a batch, batches in random order."""
    keys = [(last - first) * (1 + LENGTH_JITTER * rng.random()) for first, last in windows]
    order = np.argsort(keys, kind="stable")
    starts = np.arange(0, len(windows), batch_size)
    rng.shuffle(starts)
    for start in starts:
        yield [windows[row] for row in order[start : start + batch_size]]


def _padded(column_E: NDArray[np.int64], spans: Sequence[tuple[int, int]], fill: int) -> Tensor:
    width = max(last - first for first, last in spans)
    rows_BL = np.full((len(spans), width), fill, np.int64)
    for row, (first, last) in enumerate(spans):
        rows_BL[row, : last - first] = column_E[first:last]
    return torch.from_numpy(rows_BL)


Progress = Callable[[int, int], None]
"""Batches done, batches in all (of all epochs)."""
