"""What trends: recent activity against what is usual for the item. Pure numpy.

    activity  a(i) = sum over hours of w(kind) * n(i, hour, kind) * decay(age of the hour)
    usual     e(i) = share of the item in all events up to the generation * sum of all a
    trend     z(i) = (a - e) / sqrt(e + 1)

z is the excess in standard deviations if events come as a Poisson process of the usual rate, one
of the two tests in Hendrickson et al., "Trend Detection in Social Data" (Gnip 2015, "Poisson
model"); the 1 keeps an item that nobody knew from trending by one view. Plain counts would show
the same best sellers each hour: they are what popularity is for.

Counts are kept by hour. A window of `hours` that slides is had by the estimate of rate limiters:
the hour at its far end counts by the part of it that is still inside. S = ordinals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

HOUR_MS = 3_600_000

KIND_WEIGHTS: Mapping[str, float] = {
    "purchase": 8.0,
    "favourite": 4.0,
    "rating": 2.0,
    "comment": 2.0,
    "click": 1.0,
    "view": 0.5,
}
"""What an event says of the interest in an item, against a click: set by hand, by the effort that
it takes. The others (dislike, hide) say nothing for it."""

TREND_SHARE = 0.5
"""Of a new user's score; the rest is popularity. Set by hand, not measured yet."""

Counts = tuple[NDArray[np.int64], NDArray[np.float32]]
NO_COUNTS: Counts = (np.zeros(0, np.int64), np.zeros(0, np.float32))


def hour_weights(as_of_ms: int, hours: int) -> dict[int, float]:
    """hour -> what its activity counts, of the `hours` before `as_of_ms`; half-life `hours` / 2."""
    last, inside = divmod(as_of_ms, HOUR_MS)
    weights = {last - age: 0.5 ** (2 * age / hours) for age in range(hours + 1)}
    weights[last - hours] *= 1 - inside / HOUR_MS
    return weights


def activity(span: int, counted: Iterable[tuple[float, Counts]]) -> NDArray[np.float32]:
    """a (S,): the sum of hours, each with its weight and its (ordinals, counts)."""
    total = np.zeros(span, np.float32)
    for weight, (ordinals, counts) in counted:
        inside = ordinals < span  # an ordinal is once in an hour, so += adds all of them
        total[ordinals[inside]] += np.float32(weight) * counts[inside]
    return total


def trend(
    activity_S: NDArray[np.float32], event_counts_S: NDArray[np.int64]
) -> NDArray[np.float32]:
    """z (S,): standard deviations above what is usual; negative for less than usual."""
    total = float(event_counts_S.sum())
    usual_S = event_counts_S * (float(activity_S.sum(dtype=np.float64)) / total if total else 0.0)
    scores: NDArray[np.float32] = ((activity_S - usual_S) / np.sqrt(usual_S + 1)).astype(np.float32)
    return scores


def for_new_users(
    trend_S: NDArray[np.float32], event_counts_S: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(S,) in 0..1: popularity (the night's counts) and trend, logarithms of both."""
    popular_S = _to_one(np.log1p(event_counts_S.astype(np.float32)))
    trending_S = _to_one(np.log1p(np.maximum(trend_S, 0)))
    return (1 - TREND_SHARE) * popular_S + TREND_SHARE * trending_S


def _to_one(values_S: NDArray[np.float32]) -> NDArray[np.float32]:
    highest = values_S.max(initial=np.float32(0))
    return values_S / highest if highest else values_S
