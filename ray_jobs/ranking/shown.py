"""Which items one user may be shown, as the arrays that a kernel looks it up in.

    shown = is there now, matches the filter, is not hidden

What is there now: of the generation, less what changed since, and what the day added. A look-up
costs some nanoseconds, so a candidate is asked for when it would be taken, and not before.

Shapes: S ordinals, N items of the generation, M asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import BOOL, INTS, INTS32, MASK

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_NO_MASK: Mask = np.zeros(0, np.bool_)
_NOBODY: Ints = np.zeros(0, np.int64)
_NO_TABLE = np.zeros(0, np.int32)


class Live(NamedTuple):
    """What is in the catalog: `ordinals` (N,) without those of `gone`, and those of `added`; all
    three ascend. `rows_S`: the row of each ordinal among `ordinals`, -1 where it is none of them;
    empty where ordinals are so sparse that they are searched."""

    rows_S: NDArray[np.int32]
    ordinals: Ints
    gone: Ints
    added: Ints

    @classmethod
    def of(cls, ordinals: Ints) -> Live:
        """These, ascending."""
        return cls(_NO_TABLE, ordinals, _NOBODY, _NOBODY)


@dataclass(frozen=True, slots=True)
class Shown:
    """`live`: None where `eligible` says that, too. `eligible`: a mask over ordinals, all when
    None; ordinals beyond its end are not. `hidden`: ascending."""

    live: Live | None
    hidden: Ints
    eligible: Mask | None = None

    @property
    def arrays(self) -> ShownArrays:
        """For a kernel."""
        eligible = _NO_MASK if self.eligible is None else self.eligible
        live = _NOTHING if self.live is None else self.live
        filtered = self.eligible is not None
        return (*live, self.hidden, eligible, self.live is not None, filtered)


_NOTHING = Live.of(_NOBODY)

ShownArrays = tuple[NDArray[np.int32], Ints, Ints, Ints, Ints, Mask, bool, bool]
SHOWN_TYPES = (INTS32, INTS, INTS, INTS, INTS, MASK, BOOL, BOOL)
