"""A block of the delta gives what a brute force over its stored rows gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ray_jobs.shards.blocks import ExactBlock
from ray_jobs.shards.faiss_index import AllowedOrdinals
from ray_jobs.shards.merge import Ordinals
from ray_jobs.shards.placement import Family

FAMILIES: tuple[Family, ...] = ("Flat", "IVF,SQfp16")


def block_of(
    rng: np.random.Generator, family: Family, rows: int, dim: int
) -> tuple[ExactBlock, Ordinals, NDArray[np.float32]]:
    """A block, its ordinals, and its rows as it stores them."""
    ordinals = np.sort(rng.choice(1_000, rows, replace=False)).astype(np.int64)
    vectors_ND = rng.normal(size=(rows, dim)).astype(np.float32)
    empty = ExactBlock.empty(family, dim)
    block = empty.changed(ordinals[:0], ordinals, vectors_ND)
    stored = np.float32 if family == "Flat" else np.float16
    return block, ordinals, vectors_ND.astype(stored).astype(np.float32)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(FAMILIES),
    st.integers(0, 70),
    st.sampled_from((1, 7, 8, 33, 128)),
    st.integers(1, 80),
    st.booleans(),
)
def test_the_best_are_those_of_the_stored_rows(
    seed: int, family: Family, rows: int, dim: int, k: int, is_filtered: bool
) -> None:
    rng = np.random.default_rng(seed)
    block, ordinals, stored_ND = block_of(rng, family, rows, dim)
    query_D = rng.normal(size=dim).astype(np.float32)
    exact_N = stored_ND.astype(np.float64) @ query_D
    # Between two rows, so that what float32 loses decides nothing.
    between = np.sort(exact_N)[:-1] + np.diff(np.sort(exact_N)) / 2 if rows > 1 else np.zeros(1)
    least = float(rng.choice(between))
    mask = rng.random(1_000) < 0.5
    allowed = AllowedOrdinals(mask) if is_filtered else None

    scores, found = block.best(query_D, k, least, None, allowed)

    wanted = exact_N >= least
    if is_filtered:
        wanted &= mask[ordinals]
    best = np.sort(exact_N[wanted])[::-1][:k]
    assert len(found) == len(set(found.tolist())) == len(best)
    assert np.isin(found, ordinals[wanted]).all()
    near = 1e-6 * max(1, dim)
    np.testing.assert_allclose(np.sort(scores)[::-1], best, atol=near)
    np.testing.assert_allclose(scores, exact_N[np.searchsorted(ordinals, found)], atol=near)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_block_leaves_the_old_one_as_it_was(family: Family) -> None:
    rng = np.random.default_rng(1)
    block, ordinals, stored_ND = block_of(rng, family, 20, 8)
    newer = block.changed(ordinals[:5], ordinals[3:5], np.ones((2, 8), np.float32))
    np.testing.assert_array_equal(newer.ordinals, ordinals[3:])
    np.testing.assert_array_equal(newer.vectors_of(ordinals[3:5])[1], np.ones((2, 8)))
    np.testing.assert_array_equal(newer.vectors_of(ordinals[:3])[0], [False] * 3)
    np.testing.assert_array_equal(block.vectors_of(ordinals)[1], stored_ND)
