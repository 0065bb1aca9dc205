"""One score from all that is known of a candidate: the user's taste, what is acted on now, how new
it is, and what others took beside the user's last items.

    score(i) = sum over features f of  weight(f) * value(f, i)

Activity and newness are known over several horizons; each is a feature by what it adds to the next
shorter one, so a weight says what an event, or a publication, of about that age is worth.

The weights are those of a conditional logit (McFadden 1974): the odds of a candidate to be the
next thing that the user acts on. The night learns them on questions that the model has not seen
(`fusion_fit`) and writes them into the generation, so one can read what a list is made from. They
are divided by one number, so that scores are spread as widely as the cosines are: a boost of 0.1
means the same in a generation with and without fusion.

For users without events there are weights of their own, over what needs no user.

Shapes: N candidates, F features, H horizons (`activity`), D sums (`neighbours.SUMS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ray_jobs.compiled import BOOL, FLOAT, FLOATS, FLOATS_2D, INT, INTS, array_of, kernel
from ray_jobs.ranking.activity import DAY_MS, HORIZONS_DAYS
from ray_jobs.ranking.candidates import Candidates
from ray_jobs.ranking.neighbours import COSINE, DECAYS, LINEAR

QUIET_SHARE = 0.1
"""A month with less than this share of the usual activity is quiet."""

AGES_DAYS = (3.0, 14.0, 60.0, 365.0)
"""An item's newness is exp(-age / each of these)."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

PARTS: Mapping[str, tuple[str, ...]] = {
    "cosine": ("cosine",),
    "activity": tuple(f"activity_{days:g}d" for days in HORIZONS_DAYS),
    "age": tuple(f"age_{days:g}d" for days in AGES_DAYS),
    "neighbours": (
        *(f"neighbours_{base:g}" for base in DECAYS),
        "neighbours_log",
        "linear",
        "linear_log",
        "whole",
        "whole_log",
        "lately",
        "lately_log",
    ),
    "recent": ("recent",),
}
"""Part of a score -> its features, in the order of the columns."""

FEATURES: tuple[str, ...] = tuple(name for names in PARTS.values() for name in names)
NEVER_WORSE = frozenset({"cosine", *PARTS["age"]})
"""Features whose weights are not negative: nobody is worse for being near, or for being new."""

NEEDS_USER = frozenset({"cosine", *PARTS["neighbours"], "recent"})
IS_NEVER_WORSE_F = np.array([name in NEVER_WORSE for name in FEATURES])
COLUMNS = len(FEATURES)
IS_USERS_F = np.array([name in NEEDS_USER for name in FEATURES])


@dataclass(frozen=True)
class Evidence:
    """What is known of N candidates for one user at one moment.

    `cosines` and `recent` (N,): to the user vector, and to the mean of the vectors of the user's
    last few items. `activity` (N, H). `published_ms` (N,): -1 where nobody says. `neighbours`
    (N, D): of the user's recent items. `history` (N, 2): what all that the user has seen says
    (`whole_history`). What a user does not have is 0.
    """

    cosines: Floats
    activity: Floats
    published_ms: Ints
    neighbours: Floats
    history: Floats
    recent: Floats

    def features(self, as_of_ms: int, *, quiet: bool = False) -> Floats:
        """(N, F), in the order of FEATURES. `quiet`: as if all activity were long ago."""
        return np.ascontiguousarray(self.columns(as_of_ms, quiet=quiet).T)

    def columns(self, as_of_ms: int, *, quiet: bool = False) -> Floats:
        """The same by feature, (F, N).

        Logarithms and powers are numpy's: it takes eight at once where the processor can, and a
        kernel one."""
        logs_LN, newness_AN = _arguments(
            *(self.activity, self.neighbours, self.history, self.published_ms, as_of_ms)
        )
        np.log1p(logs_LN, out=logs_LN)
        np.exp(newness_AN, out=newness_AN)
        columns: Floats = _columns(
            *(self.cosines, logs_LN, newness_AN, self.neighbours, self.history, self.recent, quiet),
        )
        return columns


_FIRST = {part: FEATURES.index(names[0]) for part, names in PARTS.items()}
_ACTIVITY, _AGE, _NEIGHBOURS, _RECENT = (
    _FIRST[part] for part in ("activity", "age", "neighbours", "recent")
)
_LOGS = _NEIGHBOURS + len(DECAYS)
"""Columns of the features: where each part begins."""

_NEAREST_ZERO = np.float32(1e-9)
_AGES_MS = np.array(AGES_DAYS) * DAY_MS


@kernel(FLOATS_2D, FLOATS_2D, FLOATS_2D, INTS, INT)
def _arguments(
    activity_NH: Floats, near_ND: Floats, history_N2: Floats, published_N: Ints, as_of_ms: int
) -> tuple[Floats, NDArray[np.float64]]:
    """Of the logarithms (H + 4, N) of activity and of the four sums beside, and of the newness
    (4, N): -inf of items of which nobody says when they were published, and of those that are yet
    to be."""
    horizons = activity_NH.shape[1]
    logs_LN = np.empty((horizons + 4, len(activity_NH)), np.float32)
    newness_AN = np.empty((len(_AGES_MS), len(activity_NH)), np.float64)
    for row in range(len(activity_NH)):
        for h in range(horizons):
            logs_LN[h, row] = max(activity_NH[row, h], np.float32(0))
        logs_LN[horizons, row] = max(10 * near_ND[row, COSINE], np.float32(0))
        logs_LN[horizons + 1, row] = max(10 * near_ND[row, LINEAR], np.float32(0))
        logs_LN[horizons + 2, row] = max(10 * history_N2[row, 0], np.float32(0))
        logs_LN[horizons + 3, row] = max(10 * history_N2[row, 1], np.float32(0))
        is_told = 0 <= published_N[row] <= as_of_ms
        for age in range(len(_AGES_MS)):
            power = (published_N[row] - as_of_ms) / _AGES_MS[age]
            newness_AN[age, row] = power if is_told else -np.inf
    return logs_LN, newness_AN


@kernel(FLOATS, FLOATS_2D, array_of(FLOAT, 2), FLOATS_2D, FLOATS_2D, FLOATS, BOOL)
def _columns(
    cosines_N: Floats,
    logs_LN: Floats,
    newness_AN: NDArray[np.float64],
    near_ND: Floats,
    history_N2: Floats,
    recent_N: Floats,
    is_quiet: bool,
) -> Floats:
    """Activity and newness by what each wider horizon adds to the one before it: not negative, as
    horizons ascend."""
    columns_FN = np.empty((COLUMNS, len(cosines_N)), np.float32)
    highest_D = np.full(LINEAR, _NEAREST_ZERO, np.float32)
    for row in range(len(near_ND)):
        for column in range(LINEAR):
            highest_D[column] = max(highest_D[column], near_ND[row, column])
    horizons, ages = len(logs_LN) - 4, len(newness_AN)
    for row in range(len(cosines_N)):
        columns_FN[0, row] = cosines_N[row]
        columns_FN[_RECENT, row] = recent_N[row]
        for column in range(LINEAR):
            columns_FN[_NEIGHBOURS + column, row] = near_ND[row, column] / highest_D[column]
        columns_FN[_LOGS, row] = logs_LN[horizons, row]
        columns_FN[_LOGS + 1, row] = near_ND[row, LINEAR]
        columns_FN[_LOGS + 2, row] = logs_LN[horizons + 1, row]
        for place in range(2):
            columns_FN[_LOGS + 3 + 2 * place, row] = history_N2[row, place]
            columns_FN[_LOGS + 4 + 2 * place, row] = logs_LN[horizons + 2 + place, row]
    for h in range(horizons):
        for row in range(len(cosines_N)):
            if is_quiet and h < horizons - 1:
                columns_FN[_ACTIVITY + h, row] = 0
            elif is_quiet or h == 0:
                columns_FN[_ACTIVITY + h, row] = logs_LN[h, row]
            else:
                columns_FN[_ACTIVITY + h, row] = logs_LN[h, row] - logs_LN[h - 1, row]
    for age in range(ages):
        for row in range(len(cosines_N)):
            value = np.float32(newness_AN[age, row])
            before = np.float32(newness_AN[age - 1, row]) if age else np.float32(0)
            columns_FN[_AGE + age, row] = value - before
    return columns_FN


_ENDS = np.cumsum([len(names) for names in PARTS.values()])


@kernel(FLOATS_2D, FLOATS)
def _score(columns_FN: Floats, weights_F: Floats) -> tuple[Floats, Floats]:
    """Scores (N,), and the parts (parts, N) of which they are the sum."""
    scores_N = np.zeros(columns_FN.shape[1], np.float32)
    parts_PN = np.zeros((len(_ENDS), columns_FN.shape[1]), np.float32)
    first = 0
    for part in range(len(_ENDS)):
        for column in range(first, _ENDS[part]):
            for row in range(len(scores_N)):
                parts_PN[part, row] += columns_FN[column, row] * weights_F[column]
        for row in range(len(scores_N)):
            scores_N[row] += parts_PN[part, row]
        first = _ENDS[part]
    return scores_N, parts_PN


Weights = Annotated[tuple[float, ...], Field(min_length=len(FEATURES), max_length=len(FEATURES))]


class UserWeights(BaseModel):
    """Weights (F,) of users with a vector, and of those without: 0 where a feature needs one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    known: Weights
    new: Weights


class Fusion(BaseModel):
    """fusion.json. Frozen; unknown fields are refused.

    In a lively log what was liked a year ago and is not any more is worse than what nobody knew, so
    weights of old activity are often negative. Where the log has paused, the same weights would
    list the least liked first. `quiet` weights are for that: they were learned on the same
    questions as if all activity were long ago.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[3] = 3
    features: tuple[str, ...] = FEATURES
    lively: UserWeights
    quiet: UserWeights
    usual_month: float = Field(ge=0)
    """Activity of a month when the weights were learned (`activity.Activity.month`)."""
    questions: int = Field(ge=0)
    """How many taught them."""
    activity_hour: int = Field(default=0, ge=0)
    """The generation's activity counts the hours (since 1970) before this one; the day adds it and
    those that follow."""

    @model_validator(mode="after")
    def _of_this_version(self) -> Self:
        if self.features != FEATURES:
            raise ValueError(f"features {list(self.features)}, this version has {list(FEATURES)}")
        return self

    def is_quiet(self, month: float) -> bool:
        """Whether so little happened in a month that recency says nothing."""
        return month < QUIET_SHARE * self.usual_month

    def cosine_weight(self, *, is_quiet: bool) -> float:
        """What a known user's cosine is multiplied by."""
        weights = self.quiet if is_quiet else self.lively
        return weights.known[FEATURES.index("cosine")]

    def score(
        self,
        found: Ints,
        evidence: Evidence,
        as_of_ms: int,
        *,
        is_known: bool,
        is_quiet: bool = False,
    ) -> Candidates:
        """The candidates `found` (N,) with their scores, made of one part for each of PARTS."""
        weights_F = self._weights[is_quiet, is_known]
        scores_N, parts_PN = _score(evidence.columns(as_of_ms, quiet=is_quiet), weights_F)
        return Candidates(scores_N, found, dict(zip(PARTS, parts_PN, strict=True)))

    @cached_property
    def _weights(self) -> Mapping[tuple[bool, bool], Floats]:
        """Whether the month is quiet, whether the user is known -> weights (F,)."""
        return {
            (bool(is_quiet), is_known): np.array(of.known if is_known else of.new, np.float32)
            for is_quiet, of in enumerate((self.lively, self.quiet))
            for is_known in (True, False)
        }
