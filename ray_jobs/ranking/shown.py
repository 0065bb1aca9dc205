"""Which items one user may be shown, as the arrays that a kernel looks it up in.

    shown = is there now, matches the filter, is not hidden

A look-up in a mask costs a nanosecond or two, so nothing is kept of what one user may be shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import BOOL, INTS, MASK

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_NO_MASK: Mask = np.zeros(0, np.bool_)


@dataclass(frozen=True, slots=True)
class Shown:
    """`live`: a mask over ordinals, of what is in the catalog; None where `eligible` says that,
    too. `eligible`: another, all when None. Ordinals beyond the end of a mask are not in it.
    `hidden`: ascending."""

    live: Mask | None
    hidden: Ints
    eligible: Mask | None = None

    @property
    def arrays(self) -> tuple[Mask, Ints, Mask, bool, bool]:
        """For a kernel."""
        live = _NO_MASK if self.live is None else self.live
        eligible = _NO_MASK if self.eligible is None else self.eligible
        return live, self.hidden, eligible, self.live is not None, self.eligible is not None


SHOWN_TYPES = (MASK, INTS, MASK, BOOL, BOOL)
