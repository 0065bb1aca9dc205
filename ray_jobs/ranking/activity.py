"""How much each item is acted on, over several horizons at once. Pure numpy.

    a(i, T, t) = sum over the events e of item i before t of  w(kind) * exp(-(t - t_e) / T)

An exponential window needs no list of past events: counts of one moment are those of another times
exp(-dt / T): the night writes its sums once, and the day adds its own hours to them. The infinite
horizon is plain popularity.

    Activity   sums of many items at one moment, read only (the night's, or the day's hours)
    Tally      sums that grow event by event, exact in time: what the weights of `fusion` learn on

Shapes: N items, H horizons, M asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import (
    FLOAT,
    FLOATS,
    FLOATS_2D,
    INT,
    INTS,
    INTS32,
    WRITTEN_2D,
    array_of,
    kernel,
)
from ray_jobs.ranking.lookup import check_ascending
from ray_jobs.ranking.trend import HOUR_MS, KIND_WEIGHTS, Counts

DAY_MS = 24 * HOUR_MS

HORIZONS_DAYS: tuple[float, ...] = (0.25, 1, 3, 7, 30, 90, 365, math.inf)
"""From what is hot this morning to what was always liked. A file says which ones it holds."""

SPARSE = 8
"""With more ordinals in the span than so many times those with activity, they are searched."""

DENSE_FROM = 10_000
"""Among fewer a search is as quick as a table, and the day makes some anew each second."""

MONTH = HORIZONS_DAYS.index(30)
"""Column of the horizon by which it is told whether the log goes on as usual."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def decay(ages_ms: NDArray[np.int64]) -> Floats:
    """exp(-age / horizon), (M, H). What lies in the future counts as now."""
    ages_days = np.maximum(ages_ms, 0)[:, None] / DAY_MS
    factors: Floats = np.exp(-ages_days / np.array(HORIZONS_DAYS)).astype(np.float32)
    return factors


def _decayed_sums(rows_L: Ints, weights_L: Floats, ages_ms_L: Ints, count: int) -> Floats:
    """Sum of weight * exp(-age / horizon) of each row, (count, H); a horizon at a time, for a whole
    log goes through here."""
    sums_NH = np.zeros((count, len(HORIZONS_DAYS)), np.float32)
    ages_days = np.maximum(ages_ms_L, 0) / DAY_MS
    for h, days in enumerate(HORIZONS_DAYS):
        sums_NH[:, h] = np.bincount(rows_L, weights_L * np.exp(-ages_days / days), count)
    return sums_NH


@dataclass(frozen=True)
class Activity:
    """Sums (N, H) of the items `ordinals` (N,), ascending, as of `at_ms`. Items not named: 0."""

    ordinals: Ints
    sums: Floats
    at_ms: int

    def __post_init__(self) -> None:
        """Raises ValueError: the arrays do not belong together."""
        if self.sums.shape != (len(self.ordinals), len(HORIZONS_DAYS)):
            raise ValueError(f"sums of shape {list(self.sums.shape)}")
        check_ascending(self.ordinals)

    @classmethod
    def of_hours(cls, hours: Iterable[tuple[int, Counts]], at_ms: int) -> Activity:
        """From weighted counts by hour; those of an hour are taken as of its middle.

        Raises ValueError for a negative ordinal.
        """
        pairs = list(hours)
        if not pairs:
            return cls(np.zeros(0, np.int64), np.zeros((0, len(HORIZONS_DAYS)), np.float32), at_ms)
        ordinals_L = np.concatenate([counts[0] for _, counts in pairs])
        weights_L = np.concatenate([counts[1] for _, counts in pairs])
        if ordinals_L.min(initial=0) < 0:  # the kernel would write there
            raise ValueError(f"an ordinal of {ordinals_L.min()}")
        ends_T = np.cumsum([len(counts[0]) for _, counts in pairs], dtype=np.int64)
        middles_T = np.array([hour * HOUR_MS + HOUR_MS // 2 for hour, _ in pairs], np.int64)
        ages_days = np.maximum(at_ms - middles_T, 0)[:, None] / DAY_MS
        decays_TH = np.exp(-ages_days / np.array(HORIZONS_DAYS))
        span = int(ordinals_L.max(initial=-1)) + 1
        return cls(*_of_hours(ordinals_L, weights_L, ends_T, decays_TH, span), at_ms)

    @cached_property
    def _row_S(self) -> NDArray[np.int32]:
        """The row of each ordinal up to the last, -1 without one; empty where most have none: then
        a search costs less than a table that leaves the cache."""
        span = int(self.ordinals[-1]) + 1 if len(self.ordinals) else 0
        if not DENSE_FROM <= span <= SPARSE * len(self.ordinals):
            return np.zeros(0, np.int32)
        row_S = np.full(span, -1, np.int32)
        row_S[self.ordinals] = np.arange(len(self.ordinals), dtype=np.int32)
        return row_S

    @cached_property
    def _month(self) -> float:
        return float(self.sums[:, MONTH].sum(dtype=np.float64))

    def month(self, at_ms: int) -> float:
        """All of the last month, of all items together."""
        return self._month * float(decay(np.array([at_ms - self.at_ms]))[0, MONTH])

    def at(self, ordinals_M: Ints, at_ms: int) -> Floats:
        """Their sums (M, H) at a later moment; at an earlier one those of `self.at_ms`."""
        sums_MH = np.zeros((len(ordinals_M), len(HORIZONS_DAYS)), np.float32)
        self.add_at(ordinals_M, at_ms, sums_MH)
        return sums_MH

    def add_at(self, ordinals_M: Ints, at_ms: int, sums_MH: Floats) -> None:
        """Add what `at` gives to `sums_MH`."""
        if len(self.ordinals):
            age_ms = max(0, at_ms - self.at_ms)
            _add_at(ordinals_M, self._row_S, self.ordinals, self.sums, age_ms, sums_MH)


_HORIZONS_MS = np.array(HORIZONS_DAYS) * DAY_MS
_HORIZONS = len(HORIZONS_DAYS)


@kernel(INTS, FLOATS, INTS, array_of(FLOAT, 2), INT)
def _of_hours(
    ordinals_L: Ints,
    weights_L: Floats,
    ends_T: Ints,
    decays_TH: NDArray[np.float64],
    span: int,
) -> tuple[Ints, Floats]:
    """The ordinals that occur, ascending, and the sum of weight * decay of each; what belongs to
    hour t ends at `ends_T[t]`. A day of 20,000 items an hour is summed again each second."""
    row_S = np.full(span, -1, np.int32)
    for ordinal in ordinals_L:
        row_S[ordinal] = 0
    ordinals_N, count = np.empty(min(span, len(ordinals_L)), np.int64), 0
    for ordinal in range(span):
        if row_S[ordinal] == 0:
            row_S[ordinal], ordinals_N[count] = count, ordinal
            count += 1
    sums_NH, place = np.zeros((count, _HORIZONS), np.float64), 0
    for hour in range(len(ends_T)):
        while place < ends_T[hour]:
            row, weight = row_S[ordinals_L[place]], np.float64(weights_L[place])
            for h in range(_HORIZONS):
                sums_NH[row, h] += weight * decays_TH[hour, h]
            place += 1
    return ordinals_N[:count], sums_NH.astype(np.float32)


@kernel(INTS, INTS32, INTS, FLOATS_2D, INT, WRITTEN_2D)
def _add_at(
    ordinals_M: Ints,
    row_S: NDArray[np.int32],
    ordinals_N: Ints,
    sums_NH: Floats,
    age_ms: int,
    sums_MH: Floats,
) -> None:
    decay_H = np.exp(-age_ms / _HORIZONS_MS).astype(np.float32)
    for place in range(len(ordinals_M)):
        ordinal = ordinals_M[place]
        row = -1
        if len(row_S):
            if 0 <= ordinal < len(row_S):
                row = row_S[ordinal]
        else:
            first, count = 0, len(ordinals_N)
            while count > 1:
                half = count // 2
                first += half * (ordinals_N[first + half] <= ordinal)
                count -= half
            if ordinals_N[first] == ordinal:
                row = first
        if row >= 0:
            for h in range(_HORIZONS):  # a constant: all at once
                sums_MH[place, h] += sums_NH[row, h] * decay_H[h]


class Tally:
    """Sums of the ordinals 0..span-1 that grow; events come in order of time."""

    def __init__(self, span: int) -> None:
        self._sums_SH = np.zeros((span, len(HORIZONS_DAYS)), np.float32)
        self._at_S = np.zeros(span, np.int64)

    @classmethod
    def of_events(
        cls, span: int, ordinals_E: Ints, at_ms_E: Ints, weights_E: Floats, until_ms: int
    ) -> Tally:
        """Of these events, all before `until_ms`: as if added one by one."""
        tally = cls(span)
        tally._sums_SH = _decayed_sums(ordinals_E, weights_E, until_ms - at_ms_E, span)
        tally._at_S[:] = until_ms
        return tally

    def add(self, ordinal: int, at_ms: int, weight: float) -> None:
        """One event."""
        sums_H = self._sums_SH[ordinal]
        sums_H *= decay(np.array([at_ms - self._at_S[ordinal]]))[0]
        sums_H += np.float32(weight)
        self._at_S[ordinal] = at_ms

    def month(self, at_ms: int) -> float:
        """As `Activity.month`. O(span)."""
        return float(self.at(np.arange(len(self._at_S)), at_ms)[:, MONTH].sum(dtype=np.float64))

    def at(self, ordinals_M: Ints, at_ms: int) -> Floats:
        """Their sums (M, H), of all events added so far."""
        sums: Floats = self._sums_SH[ordinals_M] * decay(at_ms - self._at_S[ordinals_M])
        return sums


def weight_of(kind: str) -> float:
    """What an event of that kind counts, 0 for those that say nothing for an item."""
    return KIND_WEIGHTS.get(kind, 0.0)
