"""Builds small generations on disk for the tests of `ray_jobs.shards`, and their brute-force twin.

Vectors have coordinates that are multiples of 1/8 within [-1, 1]: fp16 holds them, and float32 sums
their products without rounding, so "equal to brute force" needs no tolerance and ties are real.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.manifest import COARSE_NAME, Manifest, shard_name, write_manifest
from ray_jobs.shards.placement import Family, shard_of
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.writer import train_coarse, write_coarse, write_shard

GRID = 8


def grid_vectors(rng: np.random.Generator, count: int, dim: int) -> NDArray[np.float32]:
    return (rng.integers(-GRID, GRID + 1, size=(count, dim)) / GRID).astype(np.float32)


def write_generation(
    directory: Path,
    vectors: NDArray[np.float32],
    ordinals: NDArray[np.int64],
    *,
    family: Family = "Flat",
    nlist: int = 0,
    nprobe: int = 0,
    shard_count: int = 2,
) -> Manifest:
    """A generation whose other files are stand-ins: a few bytes under the names required."""
    directory.mkdir(parents=True, exist_ok=True)
    coarse_path = None
    if family != "Flat":
        coarse_path = directory / COARSE_NAME
        write_coarse(coarse_path, train_coarse(vectors, nlist, seed=7))
    for number in range(shard_count):
        rows = shard_of(ordinals, shard_count) == number
        path = directory / shard_name(number)
        write_shard(path, vectors[rows], ordinals[rows], family, coarse_path)
    for name in ("weights.safetensors", "items.parquet", "texts.digests.npy", "texts.vectors.npy"):
        (directory / name).write_bytes(b"stand-in for " + name.encode())
    return write_manifest(
        directory,
        generation_id="g1",
        encoder_id="e1",
        text_dim=4,
        dim=vectors.shape[1],
        family=family,
        nlist=nlist,
        nprobe=nprobe,
        shard_count=shard_count,
        item_count=len(ordinals),
        catalog_seq=0,
    )


def open_generation(directory: Path, manifest: Manifest) -> ShardSet:
    return ShardSet.open(directory, manifest)


def brute_force(
    live: Mapping[int, NDArray[np.float32]], query: NDArray[np.float32], k: int
) -> list[tuple[float, int]]:
    """(score, ordinal) of the k best of `live`, by score descending then ordinal ascending."""
    scored = [(float(np.dot(vector, query)), ordinal) for ordinal, vector in live.items()]
    return sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:k]


def pairs(scores: NDArray[np.float32], ordinals: NDArray[np.int64]) -> list[tuple[float, int]]:
    return list(zip(scores.tolist(), ordinals.tolist(), strict=True))
