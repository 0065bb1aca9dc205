"""What retrieval hands to re-ranking: scored ordinals, and how many of them to ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Retrieval's usual depth. Re-ranking sees at least these, so that a page keeps its order when
# the next one is asked for.
MIN_CANDIDATES = 200
MAX_CANDIDATES = 10_000


@dataclass(frozen=True, slots=True)
class Candidates:
    """scores (N,) float32 and ordinals (N,) int64, in any order; an ordinal may repeat.

    `parts` (N,) each: what a score is made of, by name, for those who ask why.
    """

    scores: NDArray[np.float32]
    ordinals: NDArray[np.int64]
    parts: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scores.ndim != 1 or self.scores.shape != self.ordinals.shape:
            raise ValueError(
                f"scores and ordinals must be of one length, got {list(self.scores.shape)} and "
                f"{list(self.ordinals.shape)}"
            )
        if np.isnan(self.scores.min(initial=0.0)):
            raise ValueError("scores must not be NaN")
        for name, part in self.parts.items():
            if part.shape != self.scores.shape:
                raise ValueError(f"part {name!r} has shape {list(part.shape)}, not the scores'")

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Candidates:
        """Those rows, with their parts."""
        parts = {name: part[rows] for name, part in self.parts.items()}
        return _unchecked(self.scores[rows], self.ordinals[rows], parts)

    def with_part(self, name: str, part: NDArray[np.float32]) -> Candidates:
        """With one part more, whatever it has to do with the score."""
        return _unchecked(self.scores, self.ordinals, {**self.parts, name: part})

    def __len__(self) -> int:
        return len(self.ordinals)


def _unchecked(
    scores: NDArray[np.float32],
    ordinals: NDArray[np.int64],
    parts: Mapping[str, NDArray[np.float32]],
) -> Candidates:
    """Of what was checked: a list makes five of them, and each look for NaN takes 5 us."""
    made = object.__new__(Candidates)
    for name, value in (("scores", scores), ("ordinals", ordinals), ("parts", parts)):
        object.__setattr__(made, name, value)
    return made


def candidates_wanted(k: int, offset: int = 0, pins: int = 0) -> int:
    """How many candidates retrieval must give for places offset..offset+k.

    As many more as there are `pins`: a pinned item leaves the place that it would have had. Seen,
    excluded and ineligible items are no part of it: retrieval leaves them out by itself.
    Raises ValueError when k < 1, offset < 0 or offset + k is above MAX_CANDIDATES.
    """
    if k < 1 or offset < 0 or offset + k > MAX_CANDIDATES:
        raise ValueError(
            f"k must be at least 1, offset at least 0 and their sum at most {MAX_CANDIDATES}; "
            f"got k={k}, offset={offset}"
        )
    return min(MAX_CANDIDATES, max(MIN_CANDIDATES, offset + k) + pins)
