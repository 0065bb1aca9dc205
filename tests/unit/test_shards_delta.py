"""The delta is a snapshot: changes are checked, in order, and never seen half by a search."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ray_jobs.shards.blocks import ListedBlock
from ray_jobs.shards.delta import Delta, DeltaChange
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.search import live_vectors_of, search
from tests.unit.shards_builder import grid_vectors, pairs, write_generation

DIM = 16
COUNT = 400


@pytest.fixture(params=["Flat", "IVF,SQfp16"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> ShardSet:
    nlist, nprobe = (0, 0) if request.param == "Flat" else (20, 20)
    vectors = grid_vectors(np.random.default_rng(1), COUNT, DIM)
    ordinals = np.arange(COUNT, dtype=np.int64)
    manifest = write_generation(
        tmp_path, vectors, ordinals, family=request.param, nlist=nlist, nprobe=nprobe
    )
    return ShardSet.open(tmp_path, manifest)


def put(ordinal: int, seed: int) -> DeltaChange:
    return DeltaChange(ordinal, grid_vectors(np.random.default_rng(seed), 1, DIM)[0])


def test_an_item_recreated_under_a_new_ordinal_leaves_the_old_one(base: ShardSet):
    vector = put(COUNT, 1).vector
    delta = Delta.empty(base).apply([DeltaChange(COUNT, vector, replaced=3)])
    found, _ = live_vectors_of(base, delta, np.array([3, COUNT]))
    assert found.tolist() == [False, True]
    delta = delta.apply([DeltaChange(COUNT + 1, vector, replaced=COUNT)])
    found, _ = live_vectors_of(base, delta, np.array([3, COUNT, COUNT + 1]))
    assert found.tolist() == [False, False, True]
    assert delta.live_count() == COUNT


def test_the_last_change_of_a_batch_wins(base: ShardSet):
    first, last = put(5, 1), put(5, 2)
    delta = Delta.empty(base).apply([first, DeltaChange(5, None), last])
    _, vectors = live_vectors_of(base, delta, np.array([5]))
    assert vectors[0].tolist() == last.vector.tolist()
    gone = delta.apply([first, last, DeltaChange(5, None)])
    assert not live_vectors_of(base, gone, np.array([5]))[0].any()


def test_no_change_is_the_same_snapshot(base: ShardSet):
    delta = Delta.empty(base)
    assert delta.apply([]) is delta
    assert (delta.count, delta.live_count(), delta.ordinal_span) == (0, COUNT, COUNT)


def test_a_full_head_moves_beside_the_bases_own_centroids(base: ShardSet):
    delta = Delta.empty(base, seal_at=8).apply(put(COUNT + n, n) for n in range(9))
    assert (len(delta.head.ordinals), len(delta.sealed.ordinals), delta.count) == (0, 9, 9)
    assert isinstance(delta.sealed, ListedBlock) == (base.family != "Flat")


def test_an_item_scores_in_the_delta_as_after_the_night(tmp_path: Path):
    """fp16 in the shards and float32 in the delta would reorder an edited item by 1e-4."""
    vectors = np.random.default_rng(2).standard_normal((60, DIM)).astype(np.float32)
    ordinals = np.arange(60, dtype=np.int64)
    manifest = write_generation(tmp_path, vectors, ordinals, family="IVF,SQfp16", nlist=6, nprobe=6)
    base = ShardSet.open(tmp_path, manifest)
    query = np.random.default_rng(3).standard_normal(DIM).astype(np.float32)
    night = dict(zip(*reversed(search(base, Delta.empty(base), query, 60)), strict=True))
    for seal_at in (4096, 1):
        edited = Delta.empty(base, seal_at=seal_at).apply(
            DeltaChange(n, vectors[n]) for n in range(60)
        )
        assert len(edited.masked) == 60
        for score, ordinal in pairs(*search(base, edited, query, 60)):
            assert score == pytest.approx(float(night[ordinal]), abs=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (DeltaChange(-1, None), "negative"),
        (DeltaChange(1, None, replaced=-4), "negative"),
        (DeltaChange(1, np.zeros(DIM)), "float32"),
        (DeltaChange(1, np.zeros(DIM + 1, np.float32)), "float32"),
        (DeltaChange(1, np.full(DIM, np.nan, np.float32)), "finite"),
    ],
)
def test_a_bad_change_is_refused_whole(base: ShardSet, change: DeltaChange, message: str):
    delta = Delta.empty(base)
    with pytest.raises(ValueError, match=message):
        delta.apply([put(1, 1), change])
    assert (delta.count, len(delta.masked)) == (0, 0)


def test_searches_beside_changes_see_one_snapshot(base: ShardSet):
    """Writers apply batches of 10 puts; a search sees all of a batch or nothing of it."""
    query = np.full(DIM, 1.0, np.float32)
    loud = np.full(DIM, 2.0, np.float32)  # outscores every item of the base
    current, stop = [Delta.empty(base, seal_at=64)], threading.Event()

    def write() -> None:
        for batch in range(40):
            start = COUNT + 10 * batch
            current[0] = current[0].apply(DeltaChange(start + n, loud) for n in range(10))
        stop.set()

    def read() -> int:
        searches = 0
        while not stop.is_set() or searches == 0:
            snapshot = current[0]
            scores, ordinals = search(base, snapshot, query, 800)
            new = ordinals[ordinals >= COUNT]
            assert len(new) == snapshot.count
            assert len(new) % 10 == 0
            assert new.tolist() == list(range(COUNT, COUNT + len(new)))
            assert len(ordinals) == min(800, COUNT + len(new))
            assert bool(np.all(np.diff(scores) <= 0))
            searches += 1
        return searches

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        pool.submit(write).result()
        assert all(reader.result() >= 1 for reader in readers)
    assert current[0].count == 400
