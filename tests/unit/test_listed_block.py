"""What a delta holds by lists: the same rows and products as one loop over all of them."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.shards.blocks import ListedBlock
from ray_jobs.shards.faiss_index import AllowedOrdinals, Assignment, nearest_lists

DIM, LISTS = 24, 7


def coarse_of(rng: np.random.Generator) -> faiss.Index:
    coarse = faiss.IndexFlatIP(DIM)
    coarse.add(rng.standard_normal((LISTS, DIM)).astype(np.float32))
    return coarse


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    probed=st.sets(st.integers(0, LISTS - 1)),
    share=st.floats(0, 1),
    k=st.integers(1, 40),
)
def test_of_the_probed_lists_the_best_that_score_enough(
    seed: int, sizes: list[int], probed: set[int], share: float, k: int
):
    rng = np.random.default_rng(seed)
    coarse, held = coarse_of(rng), {}
    block = ListedBlock.empty(coarse)
    for size in sizes:
        gone = np.array(sorted(o for o in held if rng.random() < 0.3), np.int64)
        fresh = np.sort(rng.choice(500, size, replace=False)).astype(np.int64)
        gone = np.union1d(gone, fresh[np.isin(fresh, list(held))]).astype(np.int64)
        vectors = rng.standard_normal((size, DIM)).astype(np.float16).astype(np.float32)
        block = block.changed(gone, fresh, vectors)
        held = {o: v for o, v in held.items() if o not in gone}
        held |= dict(zip(fresh.tolist(), vectors, strict=True))
    assert block.ordinals.tolist() == sorted(held)
    query = rng.standard_normal(DIM).astype(np.float32)
    allowed = AllowedOrdinals(rng.random(500) < 0.7)
    scores = {o: float(v @ query) for o, v in held.items()}
    least = float(np.quantile(list(scores.values()), share)) if scores else 0.0
    ordinals = np.array(sorted(held), np.int64)
    vectors_ND = np.array([held[o] for o in ordinals], np.float32).reshape(-1, DIM)
    list_of = dict(zip(ordinals.tolist(), nearest_lists(coarse, vectors_ND), strict=True))
    right = {
        o
        for o, score in scores.items()
        if list_of[o] in probed and score >= least + 1e-4 and allowed.admits(np.array([o]))[0]
    }
    lists_P = np.array([[*probed, -1]], np.int64)
    assignment = Assignment(lists_P, np.zeros(lists_P.shape, np.float32))
    found_scores, found = block.best(query, k, least, assignment, allowed)
    assert len(found) <= k
    assert len(set(found.tolist())) == len(found)
    for score, ordinal in zip(found_scores, found.tolist(), strict=True):
        assert score == pytest.approx(scores[ordinal], abs=1e-4)
        assert score >= least
        assert list_of[ordinal] in probed
    best = sorted((scores[o] for o in right), reverse=True)[:k]
    assert sorted(found_scores.tolist(), reverse=True)[: len(best)] == pytest.approx(best, abs=1e-4)
    there, vectors = block.vectors_of(ordinals)
    assert there.all()
    assert np.array_equal(vectors, vectors_ND)
