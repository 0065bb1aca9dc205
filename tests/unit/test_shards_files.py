"""Shards, placement, the coarse quantizer and the faiss guard."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.errors import (
    CorruptArtifact,
    FaissConflict,
    MissingArtifact,
    ShardMismatch,
)
from ray_jobs.shards.faiss_guard import check_distributions, refuse_two_faiss
from ray_jobs.shards.faiss_index import AllowedOrdinals
from ray_jobs.shards.manifest import COARSE_NAME
from ray_jobs.shards.placement import (
    FLAT_LIMIT,
    choose_family,
    choose_shard_count,
    shard_of,
)
from ray_jobs.shards.reader import Shard, ShardSet
from ray_jobs.shards.writer import read_coarse, train_coarse, write_coarse, write_shard
from tests.unit.shards_builder import brute_force, grid_vectors, pairs, write_generation

DIM = 5
COUNT = 90


@pytest.fixture(scope="module")
def vectors():
    return grid_vectors(np.random.default_rng(3), COUNT, DIM)


@pytest.fixture(scope="module")
def ordinals():
    return np.random.default_rng(4).permutation(np.arange(0, 3 * COUNT, 3)).astype(np.int64)


@pytest.fixture(params=["Flat", "IVF,SQfp16"])
def shard(request, tmp_path: Path, vectors, ordinals) -> Shard:
    family = request.param
    coarse_path = None
    if family != "Flat":
        coarse_path = tmp_path / COARSE_NAME
        write_coarse(coarse_path, train_coarse(vectors, 9, seed=1))
    write_shard(tmp_path / "one.faiss", vectors, ordinals, family, coarse_path)
    return Shard.open(tmp_path / "one.faiss", family)


def test_a_shard_gives_back_its_vectors_under_their_ordinals(shard: Shard, vectors, ordinals):
    found, read = shard.vectors_of(np.array([*ordinals, 1, -1, 10**12]))
    assert found.tolist() == [True] * COUNT + [False] * 3
    assert np.array_equal(read[:COUNT], vectors)
    assert not read[COUNT:].any()
    assert shard.ordinals.tolist() == sorted(ordinals.tolist())


def test_a_shard_search_is_exact_and_padded(shard: Shard, vectors, ordinals):
    queries = grid_vectors(np.random.default_rng(5), 3, DIM)
    scores, found = shard.search(queries, COUNT + 4, nprobe=9)
    live = dict(zip(ordinals.tolist(), vectors, strict=True))
    for row, query in enumerate(queries):
        got = sorted(pairs(scores[row], found[row])[:COUNT], key=lambda p: (-p[0], p[1]))
        assert got == brute_force(live, query, COUNT)
    assert (found[:, COUNT:] == -1).all()
    assert np.isneginf(scores[:, COUNT:]).all()


def test_the_selector_admits_only_its_ordinals(shard: Shard):
    mask = np.zeros(100, dtype=bool)
    mask[[3, 9, 10, 99]] = True  # 10 is in no shard; all ordinals beyond 99 are out
    _, found = shard.search(np.ones((1, DIM), np.float32), 20, 9, AllowedOrdinals(mask))
    assert sorted(found[found >= 0].tolist()) == [3, 9, 99]


@pytest.mark.parametrize(
    ("family", "count", "dim", "batch"),
    [
        ("Flat", 300, 512, 300),  # 300 x 512: beyond faiss's threshold for BLAS
        ("Flat", 40_000, 8, 20),  # 20,000 a shard: one query on two threads uses BLAS
        ("IVF,SQfp16", 300, 512, 300),
    ],
)
def test_a_batch_answers_like_its_queries_one_by_one(tmp_path: Path, family, count, dim, batch):
    rng = np.random.default_rng(6)
    items = rng.standard_normal((count, dim)).astype(np.float32)  # sums that round
    nlist, nprobe = (0, 0) if family == "Flat" else (20, 4)
    manifest = write_generation(
        tmp_path, items, np.arange(count, dtype=np.int64), family=family, nlist=nlist, nprobe=nprobe
    )
    base = ShardSet.open(tmp_path, manifest)
    queries = rng.standard_normal((batch, dim)).astype(np.float32)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        scores, found = base.search_all(queries, 30)
        for row in range(0, batch, 5):
            one_scores, one_found = base.search_all(queries[row : row + 1], 30)
            assert np.array_equal(one_scores[0], scores[row])
            assert np.array_equal(one_found[0], found[row])
    finally:
        faiss.omp_set_num_threads(threads)


@pytest.mark.parametrize("family", ["Flat", "IVF,SQfp16"])
def test_the_same_vectors_give_the_same_bytes_in_any_order(
    tmp_path: Path, vectors, ordinals, family: str
):
    coarse = train_coarse(vectors, 9, seed=1)
    assert train_coarse(vectors, 9, seed=1) == coarse
    coarse_path = None if family == "Flat" else tmp_path / COARSE_NAME
    if coarse_path is not None:
        write_coarse(coarse_path, coarse)
    shuffle = np.random.default_rng(8).permutation(COUNT)
    write_shard(tmp_path / "a", vectors, ordinals, family, coarse_path)
    write_shard(tmp_path / "b", vectors[shuffle], ordinals[shuffle], family, coarse_path)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_empty_shard_is_a_shard(tmp_path: Path):
    vectors = grid_vectors(np.random.default_rng(1), 1, DIM)
    manifest = write_generation(tmp_path, vectors, np.array([7]), shard_count=4)
    base = ShardSet.open(tmp_path, manifest)
    _, found = base.search_all(vectors, 3)
    assert found.tolist() == [[7, -1, -1]]
    assert base.contains(np.array([7, 8])).tolist() == [True, False]


def test_shards_of_another_quantizer_are_refused(tmp_path: Path, vectors, ordinals):
    manifest = write_generation(tmp_path, vectors, ordinals, family="IVF,SQfp16", nlist=9, nprobe=3)
    write_coarse(tmp_path / COARSE_NAME, train_coarse(vectors, 9, seed=2))
    with pytest.raises(ShardMismatch, match=r"coarse\.faiss"):
        ShardSet.open(tmp_path, manifest)


def test_an_ordinal_in_two_shards_is_refused(tmp_path: Path, vectors, ordinals):
    manifest = write_generation(tmp_path, vectors, ordinals)
    both = np.sort(ordinals)[: COUNT // 2]
    for name in ("0000", "0001"):
        write_shard(tmp_path / f"shards/{name}.faiss", vectors[: COUNT // 2], both, "Flat")
    with pytest.raises(ShardMismatch, match="two shards"):
        _ = ShardSet.open(tmp_path, manifest).ordinals


def test_a_missing_shard_is_named(tmp_path: Path, vectors, ordinals):
    manifest = write_generation(tmp_path, vectors, ordinals)
    (tmp_path / "shards/0001.faiss").unlink()
    with pytest.raises(MissingArtifact) as caught:
        ShardSet.open(tmp_path, manifest)
    assert caught.value.path == tmp_path / "shards/0001.faiss"


@pytest.mark.parametrize("content", [b"", b"junk", b"IxMp" + b"\x00" * 40])
def test_bytes_that_are_no_index_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "x.faiss"
    path.write_bytes(content)
    with pytest.raises(CorruptArtifact):
        Shard.open(path, "Flat")
    with pytest.raises(CorruptArtifact):
        read_coarse(path)


def test_a_shard_of_another_family_is_refused(shard: Shard):
    other = "IVF,SQfp16" if shard.family == "Flat" else "Flat"
    with pytest.raises(CorruptArtifact):
        Shard.open(shard.path, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, o: (v.astype(np.float64), o), "float32"),
        (lambda v, o: (v[0], o), "float32"),
        (lambda v, o: (np.where(v == v[0, 0], np.nan, v).astype(np.float32), o), "finite"),
        (lambda v, o: (v, o[1:]), "ordinals must be int64"),
        (lambda v, o: (v, o.astype(np.int32)), "int64"),
        (lambda v, o: (v, o - 1), "negative"),
        (lambda v, o: (v, np.zeros_like(o)), "repeat"),
    ],
)
def test_a_bad_shard_is_never_written(tmp_path: Path, vectors, ordinals, change, message):
    bad_vectors, bad_ordinals = change(vectors, ordinals)
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "x.faiss", bad_vectors, bad_ordinals, "Flat")
    assert list(tmp_path.iterdir()) == []


def test_too_few_vectors_for_the_centroids_are_refused(vectors):
    with pytest.raises(ValueError, match="91 centroids"):
        train_coarse(vectors, COUNT + 1, seed=1)


def test_a_writer_that_dies_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def die_halfway() -> None:
        with whole_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        die_halfway()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_search_of_one_query_leaves_the_callers_thread_setting(shard: Shard):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        shard.search(np.ones((1, DIM), np.float32), 3, 2)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_two_faiss_distributions_are_refused_with_the_way_out():
    with pytest.raises(FaissConflict, match=r"pip uninstall -y faiss-cpu faiss-gpu"):
        check_distributions({"faiss-cpu", "faiss-gpu", "numpy"}.__contains__)
    check_distributions({"faiss-cpu"}.__contains__)
    check_distributions({"faiss-gpu"}.__contains__)


def test_the_writer_and_the_reader_ask_the_guard(monkeypatch, tmp_path: Path, vectors, ordinals):
    write_shard(tmp_path / "x.faiss", vectors, ordinals, "Flat")
    refuse_two_faiss.cache_clear()
    monkeypatch.setattr(metadata, "distribution", lambda name: name)  # every name is installed
    try:
        with pytest.raises(FaissConflict):
            Shard.open(tmp_path / "x.faiss", "Flat")
        with pytest.raises(FaissConflict):
            write_shard(tmp_path / "x.faiss", vectors, ordinals, "Flat")
        with pytest.raises(FaissConflict):
            train_coarse(vectors, 3, seed=1)
    finally:
        refuse_two_faiss.cache_clear()


def test_placement_never_changes():
    """Against the published outputs of splitmix64 for the seeds 0 and 1234567."""
    ordinals = np.array([0, 1234567], dtype=np.int64)
    outputs = [0xE220A8397B1DCDAF, 6457827717110365317]
    for shard_count in (1, 2, 7, 256):
        assert shard_of(ordinals, shard_count).tolist() == [n % shard_count for n in outputs]


@given(
    start=st.integers(0, 2**62),
    step=st.sampled_from([1, 2, 3, 4, 8, 1024]),
    shard_count=st.integers(2, 16),
)
@settings(deadline=None)
def test_placement_is_even_whatever_the_pattern_of_ordinals(start, step, shard_count):
    ordinals = start + step * np.arange(20_000, dtype=np.int64)
    counts = np.bincount(shard_of(ordinals, shard_count), minlength=shard_count)
    expected = 20_000 / shard_count
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_family_and_shard_count_follow_the_catalogs_size():
    assert choose_family(0).family == choose_family(FLAT_LIMIT).family == "Flat"
    million = choose_family(1_000_000)
    assert (million.family, million.nlist, million.nprobe) == ("IVF,SQfp16", 4000, 64)
    smallest = choose_family(FLAT_LIMIT + 1)
    assert 1 <= smallest.nprobe <= smallest.nlist <= FLAT_LIMIT
    assert choose_shard_count(0) == choose_shard_count(1_000_000) == 1
    assert choose_shard_count(10_000_000) == 5
    assert choose_shard_count(10**12) == 256


def test_the_bytes_of_a_flat_shard_lie_where_format_md_says(tmp_path: Path, vectors, ordinals):
    write_shard(tmp_path / "x.faiss", vectors, ordinals, "Flat")
    data = (tmp_path / "x.faiss").read_bytes()
    assert (data[:4], data[37:41]) == (b"IxMp", b"IxFI")
    assert int.from_bytes(data[4:8], "little") == DIM
    assert int.from_bytes(data[8:16], "little") == COUNT
    order, end = np.argsort(ordinals), 82 + 4 * DIM * COUNT
    assert np.frombuffer(data[82:end], "<f4").reshape(COUNT, DIM).tolist() == (
        vectors[order].tolist()
    )
    assert np.frombuffer(data[end + 8 :], "<i8").tolist() == ordinals[order].tolist()


def test_the_bytes_of_an_ivf_shard_lie_where_format_md_says(tmp_path: Path, vectors, ordinals):
    coarse = train_coarse(vectors, 9, seed=1)
    write_coarse(tmp_path / COARSE_NAME, coarse)
    write_shard(tmp_path / "x.faiss", vectors, ordinals, "IVF,SQfp16", tmp_path / COARSE_NAME)
    data = (tmp_path / "x.faiss").read_bytes()
    assert data[:4] == b"IwSq"
    assert int.from_bytes(data[37:45], "little") == 9
    assert data[53 : 53 + len(coarse)] == coarse
    lists = data.index(b"ilar")
    assert int.from_bytes(data[lists + 12 : lists + 20], "little") == 2 * DIM
    # Every vector's fp16 code stands in the file, whatever its list.
    assert all(vector.astype("<f2").tobytes() in data[lists:] for vector in vectors)
