"""What the weights mean: everything that decides the meaning of their bytes.

Written into the weights file and read from there; never a setting. Imports neither torch nor Ray,
so that the day can fold without loading them.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Pooling = Literal["last", "mean", "ema"]

# The kinds that feed the fold, in the order of their rows in `kind`. "undo" feeds nothing.
KINDS = (
    "view",
    "click",
    "rating",
    "favourite",
    "purchase",
    "dislike",
    "hide",
    "search",
    "comment",
)
UNDO = "undo"
PURCHASE = "purchase"
# In the order of their bits in a session: one more goes to the end, and needs a new version there.
SEEN_BITS = {kind: 1 << bit for bit, kind in enumerate(KINDS[:5])}
SEEN_KINDS = frozenset(SEEN_BITS)
EXCLUDING_KINDS = frozenset({"dislike", "hide"})
TEXT_KINDS = frozenset({"search", "comment"})

MAX_RATING_BUCKETS = 10


class UserLSTMConfig(BaseModel):
    """Shape and meaning of a user encoder. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_dim: int = Field(ge=1, le=8192)
    """Width of the BERT vectors (384 for all-MiniLM-L6-v2)."""
    dim: int = Field(default=128, ge=1, le=4096)
    """Width of item and user vectors."""
    hidden: int = Field(default=128, ge=1, le=4096)
    """Width of the LSTM's h and c."""
    pooling: Pooling = "last"
    """How the h of all steps become one: the last, their mean, or an exponential average."""
    ema_decay: float = Field(default=0.9, gt=0.0, lt=1.0)
    """Weight of the past in `ema` pooling; unused by the others."""
    kinds: tuple[str, ...] = KINDS
    """Event kinds, in the order of the rows of the kind embedding."""
    rating_edges: tuple[float, ...] = (1.5, 2.5, 3.5, 4.5)
    """Ascending edges between rating buckets; bucket 0 means "no rating"."""
    residual_min_events: int = Field(default=5, ge=1)
    """Items with fewer training events have no residual: their text alone speaks for them."""
    residual_count: int = Field(default=0, ge=0)
    """How many items have a residual."""
    max_train_len: int = Field(default=100, ge=2)
    """Longest window the weights were trained on. Serving folds all of the history."""

    @model_validator(mode="after")
    def _check(self) -> "UserLSTMConfig":
        if len(set(self.kinds)) != len(self.kinds) or UNDO in self.kinds:
            raise ValueError(f"kinds must be distinct and without {UNDO!r}, got {self.kinds}")
        edges = self.rating_edges
        if len(edges) >= MAX_RATING_BUCKETS or list(edges) != sorted(set(edges)):
            raise ValueError(f"rating_edges must ascend, at most {MAX_RATING_BUCKETS - 1}: {edges}")
        return self

    @property
    def rating_rows(self) -> int:
        """Rows of the rating embedding: row 0 for "no rating", then one for each bucket."""
        return len(self.rating_edges) + 2

    def rating_bucket(self, kind: str, value: float | None) -> int:
        """The row of the rating embedding for one event. Only ratings are read for their value."""
        if kind != "rating" or value is None:
            return 0
        return bisect_right(self.rating_edges, value) + 1


def rating_edges_of(values: Sequence[float] | NDArray[np.floating]) -> tuple[float, ...]:
    """Edges of rating buckets that suit the data: midpoints of a short scale, else quantiles.

    A scale of at most ten distinct values (1..5 stars) gets one bucket a value. NaN are ignored.
    """
    numbers = np.asarray(values, dtype=np.float64)
    distinct = np.unique(numbers[~np.isnan(numbers)])
    if len(distinct) <= 1:
        return ()
    if len(distinct) > MAX_RATING_BUCKETS:
        steps = np.arange(1, MAX_RATING_BUCKETS) / MAX_RATING_BUCKETS
        return tuple(float(edge) for edge in np.unique(np.nanquantile(numbers, steps)))
    return tuple(float(edge) for edge in (distinct[1:] + distinct[:-1]) / 2)
