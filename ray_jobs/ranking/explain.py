"""Why an item was shown: the past events nearest to it, and a past list compared with its rebuild.

Shapes: N items, M events, D dim, E the events told of each item.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEAREST_EVENTS = 3
TOLERANCE = 1e-5
"""Promise 3: a session folded step by step and one folded from nothing differ by no more."""


def nearest_events(
    items_ND: NDArray[np.float32], events_MD: NDArray[np.float32], most: int = NEAREST_EVENTS
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Rows of the events nearest to each item (N, E), nearest first, and the cosines (N, E).

    All vectors are unit vectors; E = min(most, M). Equal cosines: the event of the lower row first.
    Raises ValueError for most < 1 or another dim.
    """
    if most < 1 or items_ND.shape[1] != events_MD.shape[1]:
        raise ValueError(
            f"most must be at least 1 and the dims equal, got {most}, {items_ND.shape[1]} and "
            f"{events_MD.shape[1]}"
        )
    # The last bit of a product depends on its place in the matrix: of equal events it is one.
    distinct_VD, of_event_M = np.unique(events_MD, axis=0, return_inverse=True)
    cosines_NM = (items_ND @ distinct_VD.T)[:, of_event_M]
    rows_NE = np.argsort(-cosines_NM, axis=1, kind="stable")[:, :most]
    cosines_NE: NDArray[np.float32] = np.take_along_axis(cosines_NM, rows_NE, axis=1)
    return rows_NE, cosines_NE


def differences(
    stored: Sequence[float | None], rebuilt: Sequence[float | None]
) -> list[float | None]:
    """Rebuilt less stored, one a row; None where either is missing."""
    return [
        None if was is None or now is None else now - was
        for was, now in zip(stored, rebuilt, strict=True)
    ]
