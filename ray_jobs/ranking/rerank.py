"""Orders candidates into the list that is shown: eligibility, the parts of the score, pins, a page.

    score = cosine (popularity, or the parts of `fusion`) + boost    (`parts` keeps each)

Seen, excluded and ineligible items are dropped by retrieval already; they are dropped here again
because this is the last gate before a user, and the only one that candidates of another source
(pins, boosted items) will pass.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_jobs.order import ranked_rows
from ray_jobs.ranking.candidates import Candidates

OrdinalSet = Collection[int] | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pin:
    """An item at a place of the list, counted from 1."""

    position: int
    ordinal: int

    def __post_init__(self) -> None:
        if self.position < 1:
            raise ValueError(f"a pin's position must be at least 1, got {self.position}")


def weighed(
    found: Candidates, *, name: str = "cosine", boosts: NDArray[np.float32] | None = None
) -> Candidates:
    """`found` with "boost" added to its score; one that has no parts yet becomes the part `name`.

    `boosts` (`boosts.total_boosts`) is by ordinal, zero beyond its end.
    """
    boost_N = _at(boosts, found.ordinals)
    known = found if found.parts else found.with_part(name, found.scores)
    if boosts is None:
        return known.with_part("boost", boost_N)
    parts = {**known.parts, "boost": boost_N}
    return Candidates(found.scores + boost_N, found.ordinals, parts)


def rerank(
    candidates: Candidates,
    *,
    eligible: NDArray[np.bool_] | None = None,
    seen: OrdinalSet = (),
    excluded: OrdinalSet = (),
    pins: Sequence[Pin] = (),
    first: NDArray[np.int64] | None = None,
    k: int,
    offset: int = 0,
) -> Candidates:
    """Places offset..offset+k of the list: score descending, ordinal ascending, each ordinal once.

    `eligible`: a mask over ordinals, all when None; ordinals beyond its end are not eligible.
    `seen`, `excluded`: ordinals never to show. An ordinal that repeats keeps its best score.

    `first`: ordinals that come before all others, in this order (`diversity`).

    `pins` that are among the candidates and may be shown take their place, and leave the one they
    would have had; pins of one position follow each other in the order given, an item that is
    pinned twice keeps its first place, and a place beyond the end of the list is its end. The part
    "pin" is the position asked for, 0 where there is none. All pages are cut from one list, so an
    item is on one of them.
    Raises ValueError for k < 1 or offset < 0.
    """
    if k < 1 or offset < 0:
        raise ValueError(f"k must be at least 1 and offset at least 0; got k={k}, offset={offset}")
    hidden = _ascending(seen, excluded)
    rows = ranked_rows(candidates.scores, candidates.ordinals, hidden, eligible)
    if first is not None:
        places = np.full(len(rows), len(first))
        ordinals = candidates.ordinals[rows].tolist()
        place_of = {ordinal: place for place, ordinal in enumerate(ordinals)}
        for place, ordinal in enumerate(first.tolist()):
            if ordinal in place_of:
                places[place_of[ordinal]] = place
        rows = rows[np.argsort(places, kind="stable")]
    if not pins:
        page = candidates.take(rows[offset : offset + k])
        return page.with_part("pin", np.zeros(len(page), np.float32))
    placed, positions = _with_pins(candidates.ordinals[rows], pins)
    page = candidates.take(rows[placed[offset : offset + k]])
    return page.with_part("pin", positions[offset : offset + k])


def _with_pins(
    ordinals: NDArray[np.int64], pins: Sequence[Pin]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Rows (N,) of `ordinals` (N,) with the pinned ones at their places, and their positions."""
    rows = np.arange(len(ordinals))
    positions = np.zeros(len(ordinals), np.float32)
    if not pins:
        return rows, positions
    wanted = np.array([pin.ordinal for pin in pins], np.int64)
    there = np.flatnonzero(np.isin(ordinals, wanted))
    row_of = dict(zip(ordinals[there].tolist(), there.tolist(), strict=True))
    pinned: dict[int, int] = {}  # row -> position, in the order in which they are placed
    for pin in sorted(pins, key=lambda pin: pin.position):
        if pin.ordinal in row_of:
            pinned.setdefault(row_of[pin.ordinal], pin.position)
    if not pinned:
        return rows, positions
    others = len(ordinals) - len(pinned)
    places: list[int] = []
    for number, position in enumerate(pinned.values()):
        after_the_last = places[-1] + 1 if places else 0
        places.append(min(max(position - 1, after_the_last), others + number))
    is_free = np.ones(len(ordinals), np.bool_)
    is_free[places] = False
    placed = np.empty(len(ordinals), np.intp)
    placed[places] = list(pinned)
    placed[is_free] = np.delete(rows, list(pinned))
    positions[places] = list(pinned.values())
    return placed, positions


def _at(values: NDArray[np.float32] | None, ordinals: NDArray[np.int64]) -> NDArray[np.float32]:
    """`values` of these ordinals, zero where it has none."""
    found = np.zeros(len(ordinals), np.float32)
    if values is not None:
        inside = (ordinals >= 0) & (ordinals < len(values))
        found[inside] = values[ordinals[inside]]
    return found


def _ascending(*sets: OrdinalSet) -> NDArray[np.int64]:
    """All of these together; mostly it is one that ascends already."""
    arrays = [_as_array(ordinals) for ordinals in sets if len(ordinals)]
    if not arrays:
        return _NOBODY
    together = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return together if (together[1:] > together[:-1]).all() else np.unique(together)


def _as_array(values: OrdinalSet) -> NDArray[np.int64]:
    if isinstance(values, np.ndarray):
        return values
    return np.fromiter(values, dtype=np.int64, count=len(values))


_NOBODY = np.zeros(0, np.int64)
