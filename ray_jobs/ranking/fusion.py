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
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

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
        near = self.neighbours[:, : COSINE + 1]
        linear_N3 = np.column_stack([self.neighbours[:, LINEAR], self.history])
        logs_N3 = np.log1p(10 * np.maximum(linear_N3, 0))
        highest_D = near.max(axis=0, initial=np.float32(1e-9))
        activity = _added(np.log1p(self.activity))
        if quiet:
            activity[:, :-1], activity[:, -1] = 0, np.log1p(self.activity[:, -1])
        columns: tuple[Floats, ...] = (
            self.cosines[:, None],
            activity,
            _added(newness(self.published_ms, as_of_ms)),
            near / highest_D,
            np.log1p(10 * near[:, -1:]),
            np.stack([linear_N3, logs_N3], axis=2).reshape(len(near), -1),
            self.recent[:, None],
        )
        features: Floats = np.concatenate(columns, axis=1).astype(np.float32, copy=False)
        return features


def _added(values_NH: Floats) -> Floats:
    """What each wider horizon adds to the one before it: not negative, as horizons ascend."""
    added: Floats = np.diff(values_NH, axis=1, prepend=np.float32(0))
    return added


def newness(published_ms: Ints, as_of_ms: int) -> Floats:
    """exp(-age / AGES_DAYS), (N, 4); 0 of items of which nobody says when they were published, and
    of those that are yet to be."""
    ages_days = np.maximum(as_of_ms - published_ms, 0)[:, None] / DAY_MS
    values: Floats = np.exp(-ages_days / np.array(AGES_DAYS)).astype(np.float32)
    values[(published_ms < 0) | (published_ms > as_of_ms)] = 0
    return values


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
        weights = self.quiet if is_quiet else self.lively
        weights_F = np.array(weights.known if is_known else weights.new, np.float32)
        shares_NF = evidence.features(as_of_ms, quiet=is_quiet) * weights_F
        parts: dict[str, Floats] = {}
        first = 0
        for part, names in PARTS.items():
            parts[part] = shares_NF[:, first : first + len(names)].sum(axis=1)
            first += len(names)
        total: Floats = np.stack(list(parts.values())).sum(axis=0)
        return Candidates(total, found, parts)
