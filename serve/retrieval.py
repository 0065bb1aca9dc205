"""Candidates of a list by vector: the nearest, and what boosts and pins lift from further down."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ray_jobs.ranking.candidates import Candidates
from ray_jobs.ranking.rerank import Pin
from ray_jobs.shards.merge import union_sorted
from ray_jobs.shards.reader import Shards
from ray_jobs.shards.search import live_vectors_of, search
from serve.loaded_generation import CatalogView
from serve.policies import Boosts

Mask = NDArray[np.bool_]


def candidates_by_vector(
    shards: Shards,
    view: CatalogView,
    query_D: NDArray[np.float32],
    wanted: int,
    *,
    eligible: Mask | None,
    excluded: NDArray[np.int64],
    boosts: Boosts | None = None,
    pins: Sequence[Pin] = (),
) -> Candidates:
    """At least the `wanted` best by cosine plus boost, and the pinned items; scores are cosines.

    `excluded` is sorted. Items boosted or pinned by id are scored one by one; of the others each
    group of one total boost is searched by itself (`ray_jobs.ranking.boosts`).
    """
    alone = np.zeros(0, np.int64)
    if pins:
        alone = np.unique(np.array([pin.ordinal for pin in pins], np.int64))
    masks: list[Mask | None] = [eligible]
    if boosts is not None:
        alone = np.union1d(alone, boosts.direct)
        if boosts.groups_S is not None:
            masks = _group_masks(boosts.groups_S, eligible)
    if len(alone):
        excluded = union_sorted(excluded, alone)
    found = [
        search(shards, view.delta, query_D, wanted, eligible=mask, excluded=excluded)
        for mask in masks
    ]
    if len(alone):
        found.append(_scored_alone(shards, view, query_D, alone))
    if len(found) == 1:
        return Candidates(*found[0])
    scores, ordinals = zip(*found, strict=True)
    return Candidates(np.concatenate(scores), np.concatenate(ordinals))


def _group_masks(groups_S: NDArray[np.uint8], eligible: Mask | None) -> list[Mask | None]:
    masks: list[Mask | None] = []
    for group in range(int(groups_S.max(initial=0)) + 1):
        mask: Mask = groups_S == group
        if eligible is not None:
            mask &= eligible
        if mask.any():
            masks.append(mask)
    return masks


def _scored_alone(
    shards: Shards,
    view: CatalogView,
    query_D: NDArray[np.float32],
    ordinals: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosine 0 for an available item that has no vector yet: an editor's pin shows it all the same.
    One that is withdrawn it does not."""
    items = view.items.get_many(ordinals)
    available = [item is not None and item.available for item in items]
    live = ordinals[np.array(available, np.bool_)]
    _, vectors_ND = live_vectors_of(shards, view.delta, live)
    return vectors_ND @ query_D, live
