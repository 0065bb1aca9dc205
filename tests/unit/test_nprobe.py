"""The nprobe that the night writes keeps the promised recall, and no more lists than that are
probed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.bench.vectors import clustered, like_users
from ray_jobs.nightly.build import measured_probing
from ray_jobs.shards.manifest import COARSE_NAME
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.recall import (
    choose_nprobe,
    exact_nearest,
    fewest_lists,
    list_ranks,
    recalls_of,
)
from ray_jobs.shards.writer import read_coarse
from tests.unit.shards_builder import open_generation, write_generation

ITEMS, DIM, NLIST = 4_000, 16, 60


def made(folder: Path, seed: int) -> tuple[ShardSet, NDArray[np.float32], NDArray[np.int64]]:
    """Shards, and what they were made of."""
    vectors_ND = clustered(np.random.default_rng(seed), ITEMS, DIM)
    ordinals_N = np.arange(ITEMS, dtype=np.int64) * 3
    manifest = write_generation(
        folder, vectors_ND, ordinals_N, family="IVF,SQfp16", nlist=NLIST, nprobe=1, shard_count=2
    )
    return open_generation(folder, manifest), vectors_ND, ordinals_N


def recalls(
    shards: ShardSet,
    queries_BD: NDArray[np.float32],
    vectors_ND: NDArray[np.float32],
    ordinals_N: NDArray[np.int64],
    nprobe: int,
) -> NDArray[np.float64]:
    _, true_BK = exact_nearest(queries_BD, vectors_ND, ordinals_N)
    return recalls_of(shards.search_all(queries_BD, true_BK.shape[1], nprobe)[1], true_BK)


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 1_000), promised=st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_the_chosen_nprobe_keeps_the_promise_on_queries_it_never_saw(
    tmp_path_factory: pytest.TempPathFactory, seed: int, promised: float
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    shards, vectors_ND, ordinals_N = made(folder, seed)
    rng = np.random.default_rng(seed + 1)
    chosen = choose_nprobe(
        read_coarse(folder / COARSE_NAME),
        like_users(rng, 300, vectors_ND),
        vectors_ND,
        ordinals_N,
        lambda queries_BD, k, nprobe: shards.search_all(queries_BD, k, nprobe)[1],
        promised,
    )
    assert chosen.recall >= promised
    held_out_BD = like_users(rng, 300, vectors_ND)
    found_B = recalls(shards, held_out_BD, vectors_ND, ordinals_N, chosen.nprobe)
    error = found_B.std() / np.sqrt(len(found_B))
    assert found_B.mean() + 2 * error >= promised
    if chosen.nprobe > 2:  # far fewer lists would break it: the number is a measured one
        fewer_B = recalls(shards, held_out_BD, vectors_ND, ordinals_N, chosen.nprobe // 2)
        assert fewer_B.mean() < promised


def test_the_night_measures_by_its_shards_what_a_search_over_them_finds(tmp_path: Path) -> None:
    shards, vectors_ND, ordinals_N = made(tmp_path, seed=5)
    queries_BD = like_users(np.random.default_rng(6), 200, vectors_ND)
    found = measured_probing(tmp_path, 2, queries_BD, vectors_ND, ordinals_N, 0.9)
    at_it_B = recalls(shards, queries_BD, vectors_ND, ordinals_N, found.nprobe)
    assert found.recall == pytest.approx(at_it_B.mean())
    assert found.recall >= 0.9
    below_B = recalls(shards, queries_BD, vectors_ND, ordinals_N, max(1, found.nprobe // 2))
    assert below_B.mean() < 0.9


def test_the_ranks_of_lists_say_what_a_search_finds(tmp_path: Path) -> None:
    shards, vectors_ND, ordinals_N = made(tmp_path, 5)
    queries_BD = like_users(np.random.default_rng(6), 50, vectors_ND)
    rows_BK, _ = exact_nearest(queries_BD, vectors_ND, ordinals_N)
    ranks_BK = list_ranks(shards.coarse, queries_BD, vectors_ND[rows_BK])
    for nprobe in (1, 3, 10, NLIST):
        by_search = recalls(shards, queries_BD, vectors_ND, ordinals_N, nprobe).mean()
        assert np.mean(ranks_BK < nprobe) == pytest.approx(by_search, abs=0.003)


def test_exact_nearest_are_the_largest_products_and_find_themselves() -> None:
    vectors_ND = clustered(np.random.default_rng(0), 500, DIM)
    ordinals_N = np.arange(500, dtype=np.int64)[::-1].copy()
    queries_BD = vectors_ND[:20]
    rows_BK, true_BK = exact_nearest(queries_BD, vectors_ND, ordinals_N, 10)
    by_hand_BK = np.argsort(-(queries_BD @ vectors_ND.T), axis=1)[:, :10]
    assert np.sort(rows_BK).tolist() == np.sort(by_hand_BK).tolist()
    assert recalls_of(true_BK, true_BK).tolist() == [1.0] * 20
    assert recalls_of(np.full_like(true_BK, -1), true_BK).tolist() == [0.0] * 20


def test_as_many_lists_as_the_worst_query_needs_where_all_must_be_found() -> None:
    ranks_BK = np.array([[0, 0, 4], [1, 0, 2]])
    assert fewest_lists(ranks_BK, 9, 1.0) == 5
    assert fewest_lists(ranks_BK, 4, 1.0) == 4  # there are no more: all of them
    assert fewest_lists(np.zeros((4, 3), np.int64), 9, 1.0) == 1


@pytest.mark.parametrize(("promised", "queries"), [(1.5, 3), (0.9, 0)])
def test_a_promise_that_cannot_be_measured_is_refused(promised: float, queries: int) -> None:
    vectors_ND = clustered(np.random.default_rng(0), 50, DIM)
    with pytest.raises(ValueError, match="at least one each"):
        choose_nprobe(
            None,
            vectors_ND[:queries],
            vectors_ND,
            np.arange(50),
            lambda queries_BD, k, nprobe: np.zeros((0, 0), np.int64),
            promised,
        )
