"""One query over a generation's shards and its delta: what is live, eligible and not excluded.

Three stages, each tried only when the one before cannot vouch for its answer:

    1. over-fetch   ask each source for more than k, drop what may not be shown
    2. selector     let faiss skip what may not be shown, by a bitmap over ordinals
    3. exact        the selector over every list (nprobe = nlist)

When few items are eligible at all, they are scored one by one instead (`gather`), exactly.

Promises: never fewer than min(k, items that may be shown); nothing twice; nothing that is
deleted, replaced, ineligible or excluded; order by score descending, ordinal ascending. With full
nprobe, and always for Flat, the answer is the exact top k. Where shards did not answer
(`base.missing`), all of this holds of the others. D = dimension, K = results, Q = queries.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.delta import Delta
from ray_jobs.shards.faiss_index import AllowedOrdinals, Assignment, mask_at, score_rows
from ray_jobs.shards.merge import (
    PAD_ORDINAL,
    Ordinals,
    Ranked,
    in_sorted,
    merge_top_k,
    sorted_ordinals,
)
from ray_jobs.shards.reader import Shards, check_queries

MAX_K = 10_000
# Stage 1 pays for what it throws away: above this many rows a source, the selector is cheaper.
MAX_OVERFETCH = 1_024
# A few rows more than counted, so that equal scores at the k-th place rarely need a second look.
TIE_SLACK = 8
# Equal scores at the k-th place are resolved by ordinal up to this many rows a source; beyond
# (thousands of items with one text) which of them are shown is faiss's choice.
MAX_TIE_FETCH = 4_096
# Up to this many eligible items are scored directly: 1.4 ms for 1,000 of them, where the exact
# stage would scan every list.
GATHER_LIMIT = 2_048


def search(
    base: Shards,
    delta: Delta,
    query_D: NDArray[np.float32],
    k: int,
    *,
    eligible: NDArray[np.bool_] | None = None,
    excluded: Collection[int] | Ordinals = (),
    nprobe: int | None = None,
) -> Ranked:
    """The k best live items: scores (<=k,) float32 and ordinals (<=k,) int64, unpadded.

    `eligible`: a mask over ordinals (`ItemTable.matching`), all when None; ordinals beyond its end
    are not eligible. `excluded`: ordinals never to return (a sorted int64 array costs no copy).
    `nprobe`: the manifest's when None. Raises ValueError for a query that is not finite float32
    (dim,), and for k outside 1..MAX_K.
    """
    if query_D.ndim != 1:
        raise ValueError(f"query must have shape [{base.dim}], got {list(query_D.shape)}")
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k must be in 1..{MAX_K}, got {k}")
    query_BD = check_queries(query_D[None, :], base.dim)
    view = _View(base, delta, query_BD, eligible, sorted_ordinals(excluded))
    # Only beside IVF: a Flat catalog is small, and its selector stage is exact and quick.
    if eligible is not None and base.coarse is not None and view.eligible_count <= GATHER_LIMIT:
        return view.gather(k, eligible)
    assignment = base.assign(query_BD, nprobe)
    whole = assignment is None or assignment.lists_BP.shape[1] == base.nlist
    fetch = view.overfetch(k)
    if fetch <= MAX_OVERFETCH:
        ranked, closed = view.rank(k, fetch, assignment, with_selector=False)
        if closed and (whole or len(ranked[1]) == k):
            return ranked
    ranked = view.rank_to_the_tie(k, assignment)
    if whole or len(ranked[1]) == k or len(ranked[1]) == view.available:
        return ranked
    return view.rank_to_the_tie(k, base.assign(query_BD, base.nlist))


def live_vectors_of(
    base: Shards, delta: Delta, ordinals: Ordinals
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Current vectors: (found (N,), vectors (N, D)); deleted and unknown ordinals are not found."""
    ordinals = np.asarray(ordinals, dtype=np.int64)
    found, vectors_ND = base.vectors_of(ordinals)
    if len(delta.masked):
        found &= mask_at(delta.current_S, ordinals)
    for block, gone in ((delta.sealed, delta.dead), (delta.head, _NOTHING)):
        if not len(block.ordinals):
            continue
        here, vectors = block.vectors_of(ordinals)
        here &= ~in_sorted(ordinals, gone)
        vectors_ND[here] = vectors[here]
        found |= here
    if not found.all():
        vectors_ND[~found] = 0.0
    return found, vectors_ND


def live_dots_of(
    base: Shards, delta: Delta, ordinals: Ordinals, queries_QD: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Of current vectors: (found (N,), inner products (N, Q)); see `live_vectors_of`."""
    found, dots_NQ = base.dots_of(ordinals, queries_QD)
    if len(delta.masked):
        found &= mask_at(delta.current_S, ordinals)
    for block, gone in ((delta.sealed, delta.dead), (delta.head, _NOTHING)):
        if not len(block.ordinals):
            continue
        here, dots = block.dots_of(ordinals, queries_QD)
        here &= ~in_sorted(ordinals, gone)
        dots_NQ[here] = dots[here]
        found |= here
    if not found.all():
        dots_NQ[~found] = 0.0
    return found, dots_NQ


_NOTHING: Ordinals = np.empty(0, np.int64)


@dataclass(frozen=True)
class _View:
    """What one query may see. Lives for one call of `search`."""

    base: Shards
    delta: Delta
    query_BD: NDArray[np.float32]
    eligible: NDArray[np.bool_] | None
    excluded: Ordinals

    @cached_property
    def eligible_count(self) -> int:
        """Upper bound of the items that may be shown."""
        if self.eligible is None:
            return self.delta.live_count()
        return int(np.count_nonzero(self.eligible))

    def admits(self, ordinals: Ordinals) -> NDArray[np.bool_]:
        admitted = ~in_sorted(ordinals, self.excluded)
        if self.eligible is not None:
            admitted &= mask_at(self.eligible, ordinals)
        return admitted

    @cached_property
    def available(self) -> int:
        """How many items may be shown, exactly. O(items): only when a stage falls short."""
        return int(np.count_nonzero(self.admits(self.delta.live_ordinals())))

    def overfetch(self, k: int) -> int:
        """Rows to ask of each source so that k of them may likely be shown."""
        masked_share = len(self.delta.masked) / max(1, self.base.count)
        eligible_share = min(1.0, self.eligible_count / max(1, self.delta.live_count()))
        shown_share = max(1e-6, (1.0 - masked_share) * eligible_share)
        return TIE_SLACK + int((k + len(self.excluded)) / shown_share)

    @cached_property
    def allowed(self) -> tuple[AllowedOrdinals, AllowedOrdinals, AllowedOrdinals]:
        """What base, sealed block and head may return: an ordinal dead in one lives in another."""
        span = self.delta.ordinal_span
        mask = np.ones(span, dtype=np.bool_)
        if self.eligible is not None:
            mask[: len(self.eligible)] = self.eligible[:span]
            mask[len(self.eligible) :] = False
        mask[self.excluded[(self.excluded >= 0) & (self.excluded < span)]] = False
        base_mask, sealed_mask = mask.copy(), mask.copy()
        base_mask[self.delta.masked] = False
        sealed_mask[self.delta.dead] = False
        return AllowedOrdinals(base_mask), AllowedOrdinals(sealed_mask), AllowedOrdinals(mask)

    def rank(
        self, k: int, fetch: int, assignment: Assignment | None, *, with_selector: bool
    ) -> tuple[Ranked, bool]:
        """(top k, closed). Closed: no row that was not fetched can belong to these k.

        A source that gave fewer rows than asked has no more, and one of the delta is not asked for
        what scores less than others may hold. One that gave all may hold more at or below its last
        score, also where every row it gave was dropped here.
        """
        of_base, of_sealed, of_head = self.allowed if with_selector else (None, None, None)
        kept: list[Ranked] = []
        floor = -np.inf
        for found in self.base.best_of_each(self.query_BD, fetch, assignment, of_base):
            floor = _floor(floor, found, fetch)
            kept.append(found)
        delta = self.delta
        if len(delta.masked):
            kept = [(scores, _or_padding(ordinals, delta.current_S)) for scores, ordinals in kept]
        for block, allowed, gone in (
            (delta.sealed, of_sealed, delta.dead),
            (delta.head, of_head, _NOTHING),
        ):
            if not len(block.ordinals):
                continue
            found = block.best(self.query_BD[0], fetch, floor, assignment, allowed)
            floor = _floor(floor, found, fetch)
            kept.append(_without(found, gone))
        # A live ordinal is in one of them (`delta`), and of two shards in one (`reader`).
        ranked = merge_top_k(kept, k, self.excluded, self.eligible, are_distinct=True)
        if floor == -np.inf:
            return ranked, True
        return ranked, len(ranked[0]) == k and float(ranked[0][-1]) > floor

    def rank_to_the_tie(self, k: int, assignment: Assignment | None) -> Ranked:
        """Top k with the selector; fetches more while equal scores straddle the k-th place."""
        fetch = k + TIE_SLACK
        ranked, closed = self.rank(k, fetch, assignment, with_selector=True)
        while not closed and fetch < MAX_TIE_FETCH:
            fetch *= 4
            ranked, closed = self.rank(k, fetch, assignment, with_selector=True)
        return ranked

    def gather(self, k: int, eligible: NDArray[np.bool_]) -> Ranked:
        """Scores every eligible item one by one: exact, for narrow filters."""
        candidates = np.flatnonzero(eligible).astype(np.int64)
        candidates = candidates[self.admits(candidates)]
        found, vectors_ND = live_vectors_of(self.base, self.delta, candidates)
        return merge_top_k(
            [(score_rows(vectors_ND[found], self.query_BD[0]), candidates[found])], k
        )


def _floor(floor: float, found: Ranked, fetch: int) -> float:
    """With what a source that gave all the rows that were asked for may hold beside them."""
    return max(floor, float(found[0].min())) if len(found[0]) >= fetch else floor


def _or_padding(ordinals: Ordinals, current_S: NDArray[np.bool_]) -> Ordinals:
    """Those of the base that are not current become padding, which no merge takes."""
    is_current = current_S.take(ordinals, mode="clip")  # of what no base has, it says anything
    padded: Ordinals = np.where(is_current, ordinals, PAD_ORDINAL)
    return padded


def _without(found: Ranked, gone: Ordinals) -> Ranked:
    if not len(gone) or not len(found[1]):
        return found
    current = ~in_sorted(found[1], gone)
    return found[0][current], found[1][current]
