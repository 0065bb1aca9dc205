"""Inner products of stored vectors are those of the vectors that are read back."""

import faiss
import numba
import numpy as np
import pytest

from ray_jobs.shards.faiss_index import StoredVectors, new_flat, new_ivf
from ray_jobs.shards.placement import Family
from ray_jobs.shards.stored_dots import single_by_bits, single_by_processor
from ray_jobs.shards.writer import train_coarse

DIM = 24


def stored(family: Family, ordinals: np.ndarray, vectors: np.ndarray) -> StoredVectors:
    index = new_flat(DIM)
    if family != "Flat":
        index = new_ivf(
            faiss.deserialize_index(np.frombuffer(train_coarse(vectors, 4, 0), np.uint8))
        )
    index.add_with_ids(vectors, ordinals)
    return StoredVectors.of_indexes([index], family, DIM)


@pytest.mark.parametrize("family", ["Flat", "IVF,SQfp16"])
@pytest.mark.parametrize("step", [1, 1_000])
def test_products_are_those_of_the_vectors_themselves(family: Family, step: int) -> None:
    """Of dense ordinals by a table, of sparse ones by a search; also of numbers near to zero."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, DIM)).astype(np.float32)
    vectors[:20] *= 1e-6
    found_in = stored(family, np.arange(200, dtype=np.int64) * step, vectors)
    asked = np.concatenate([np.arange(-3, 203), [2**62, 5_000, 199_000]]).astype(np.int64)
    queries = rng.normal(size=(2, DIM)).astype(np.float32)
    found, dots = found_in.dots(asked, queries)
    expected_found, read = found_in.get(asked)
    np.testing.assert_array_equal(found, expected_found)
    np.testing.assert_allclose(dots, read @ queries.T, rtol=1e-5, atol=1e-6)
    assert found.any()


@numba.njit
def both_ways(halves: np.ndarray) -> np.ndarray:
    singles = np.empty((2, len(halves)), np.float32)
    for place in range(len(halves)):
        singles[0, place] = single_by_bits(halves[place])
        singles[1, place] = single_by_processor(halves[place])
    return singles


def test_every_finite_number_of_half_precision_is_read_by_bits_as_by_the_processor() -> None:
    halves = np.arange(2**16, dtype=np.uint16)
    halves = halves[np.isfinite(halves.view(np.float16))]
    expected = halves.view(np.float16).astype(np.float32)
    for singles in both_ways(halves):
        np.testing.assert_array_equal(singles, expected)


@pytest.mark.parametrize("queries", [1, 2, 3])
def test_any_number_of_queries_is_answered(queries: int) -> None:
    rng = np.random.default_rng(queries)
    vectors = rng.normal(size=(50, DIM)).astype(np.float32)
    asked, queries_QD = np.arange(50), rng.normal(size=(queries, DIM)).astype(np.float32)
    _, dots = stored("Flat", np.arange(50), vectors).dots(asked, queries_QD)
    np.testing.assert_allclose(dots, vectors @ queries_QD.T, rtol=1e-5, atol=1e-6)


def test_of_nothing_nothing_is_found() -> None:
    empty = StoredVectors.of_indexes([], "Flat", DIM)
    found, dots = empty.dots(np.array([0, 3]), np.ones((1, DIM), np.float32))
    assert not found.any()
    assert not dots.any()
