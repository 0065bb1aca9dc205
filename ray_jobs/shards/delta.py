"""The delta: the items that changed since the generation's watermark, searched beside its shards.

A Delta is an immutable snapshot. `apply` returns a new one and leaves the old one as it was, so a
search never runs beside an insert, and a request keeps the snapshot it began with.

    head      the newest changes, exact, at most SEAL_AT rows
    sealed    older ones: by the lists of the base's own centroids, or exact beside a Flat base
    dead      ordinals in `sealed` that were edited or deleted since it was sealed
    masked    ordinals of the base that were edited or deleted
    added     ordinals in head, or in `sealed` and not dead
    current_S a mask over ordinals: those of the base that are not masked
    live_S    a mask over ordinals: these, and those added

Every live ordinal is in exactly one of head, sealed minus dead, base minus masked: nothing twice.
M = rows of the head, D = dimension, S = ordinals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.blocks import Block, ExactBlock, ListedBlock
from ray_jobs.shards.faiss_index import mask_at, stored_precision
from ray_jobs.shards.merge import Ordinals, in_sorted, sorted_ordinals, union_sorted
from ray_jobs.shards.ordinal_rows import OrdinalRows
from ray_jobs.shards.placement import Family
from ray_jobs.shards.reader import Shards

# Exact search of 1,024 x 128 takes some tens of us: its 0.3 MB pushes the base out of the cache.
# Above, rows move to `sealed`, which is copied: some 0.05 s at 90,000 x 128 in 4,000 lists.
SEAL_AT = 1_024


@dataclass(frozen=True, slots=True)
class DeltaChange:
    """One change of the catalog log, as the index sees it.

    `vector`: the item's vector (D,) float32 after the change, None for a deletion. `replaced`: an
    older ordinal of the same item that this change retires (a re-created item gets a new ordinal).
    """

    ordinal: int
    vector: NDArray[np.float32] | None
    replaced: int | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """See the module. Build with `Delta.empty(base)`, grow with `apply`."""

    family: Family
    dim: int
    coarse: Any | None
    base_ordinals: Ordinals
    base_rows: OrdinalRows
    head: ExactBlock
    sealed: Block
    dead: Ordinals
    masked: Ordinals
    added: Ordinals
    current_S: NDArray[np.bool_]
    live_S: NDArray[np.bool_]
    seal_at: int = SEAL_AT

    @classmethod
    def empty(cls, base: Shards, *, seal_at: int = SEAL_AT) -> Delta:
        """No change yet. `seal_at`: rows of the head at which they move to `sealed`."""
        if seal_at < 1:
            raise ValueError(f"seal_at must be at least 1, got {seal_at}")
        nothing = np.empty(0, np.int64)
        exact = ExactBlock.empty(base.family, base.dim)
        sealed = exact if base.coarse is None else ListedBlock.empty(base.coarse)
        there_S = _mask_of(base.ordinals)
        return cls(
            family=base.family,
            dim=base.dim,
            coarse=base.coarse,
            base_ordinals=base.ordinals,
            base_rows=base.rows,
            head=exact,
            sealed=sealed,
            dead=nothing,
            masked=nothing,
            added=nothing,
            current_S=there_S,
            live_S=there_S,
            seal_at=seal_at,
        )

    def apply(self, changes: Iterable[DeltaChange]) -> Delta:
        """A new Delta with the changes applied in order; `self` stays as it is.

        Costs a copy of the head (0.3 MB at 1,024 x 128) and of both masks, once per batch. Raises
        ValueError for a vector that is not float32 (D,) and finite, or a negative ordinal.
        """
        final: dict[int, NDArray[np.float32] | None] = {}
        for change in changes:
            self._check(change)
            if change.replaced is not None:
                final[change.replaced] = None
            final[change.ordinal] = change.vector
        if not final:
            return self
        touched = sorted_ordinals(final.keys())
        put = [ordinal for ordinal in touched.tolist() if final[ordinal] is not None]
        vectors = [final[ordinal] for ordinal in put]
        rows_MD = np.array(vectors, dtype=np.float32).reshape(len(put), self.dim)
        rows_MD = stored_precision(self.family, rows_MD)
        if not bool(np.isfinite(rows_MD).all()):
            raise ValueError(f"the vectors of ordinals {put[:5]} are not finite in {self.family}")
        put_M = np.array(put, dtype=np.int64)
        head = self.head.changed(touched, put_M, rows_MD)
        of_base = touched[self.base_rows.has(touched)]
        changed = replace(
            self,
            head=head,
            dead=union_sorted(self.dead, touched[in_sorted(touched, self.sealed.ordinals)]),
            masked=union_sorted(self.masked, of_base),
            added=union_sorted(self.added[~in_sorted(self.added, touched)], put_M),
            current_S=_changed(self.current_S, of_base, of_base[:0]),
            live_S=_changed(self.live_S, touched, put_M),
        )
        return changed._seal() if len(head.ordinals) > self.seal_at else changed

    @property
    def count(self) -> int:
        """Live items in the delta: new ones and edited ones."""
        return len(self.added)

    @property
    def ordinal_span(self) -> int:
        """One more than the largest ordinal that base or delta holds, 0 when both are empty."""
        sources = (self.base_ordinals, self.sealed.ordinals, self.head.ordinals)
        return max((int(ordinals[-1]) + 1 for ordinals in sources if len(ordinals)), default=0)

    def is_live(self, ordinals: Ordinals) -> NDArray[np.bool_]:
        """For each ordinal (N,), whether base or delta holds it as it is now."""
        return mask_at(self.live_S, ordinals)

    def live_ordinals(self) -> Ordinals:
        """Every live ordinal of base and delta, sorted. O(items): not for every request."""
        return np.flatnonzero(self.live_S)

    def live_count(self) -> int:
        """Number of live ordinals of base and delta."""
        return len(self.base_ordinals) - len(self.masked) + self.count

    def _seal(self) -> Delta:
        sealed = self.sealed.changed(self.dead, self.head.ordinals, self.head.rows_ND)
        return replace(
            self,
            head=ExactBlock.empty(self.family, self.dim),
            sealed=sealed,
            dead=np.empty(0, np.int64),
        )

    def _check(self, change: DeltaChange) -> None:
        vector = change.vector
        if change.ordinal < 0 or (change.replaced is not None and change.replaced < 0):
            raise ValueError(f"ordinals must not be negative, got {change.ordinal}")
        if vector is None:
            return
        if vector.dtype != np.float32 or vector.shape != (self.dim,):
            raise ValueError(
                f"the vector of ordinal {change.ordinal} must be float32 [{self.dim}], "
                f"got {vector.dtype} {list(vector.shape)}"
            )


def _mask_of(ordinals: Ordinals) -> NDArray[np.bool_]:
    mask_S = np.zeros(int(ordinals[-1]) + 1 if len(ordinals) else 0, np.bool_)
    mask_S[ordinals] = True
    mask_S.setflags(write=False)
    return mask_S


def _changed(live_S: NDArray[np.bool_], gone: Ordinals, there: Ordinals) -> NDArray[np.bool_]:
    """A copy without `gone` and then with `there`, both ascending, the second part of the first;
    itself where nothing changes."""
    if not len(gone):
        return live_S
    changed_S = np.zeros(max(len(live_S), int(gone[-1]) + 1), np.bool_)
    changed_S[: len(live_S)] = live_S
    changed_S[gone] = False
    changed_S[there] = True
    return changed_S
