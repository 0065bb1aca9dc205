"""Writes a generation's coarse quantizer and its shards, by night: one Ray task a shard.

The same vectors give the same bytes on one kind of machine, in whatever order they come: rows are
sorted by ordinal first. N = vectors, D = dimension.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.errors import CorruptArtifact, MissingArtifact, ShardMismatch
from ray_jobs.shards.faiss_guard import refuse_two_faiss
from ray_jobs.shards.faiss_index import add_to_ivf, gpus, new_flat, new_ivf
from ray_jobs.shards.merge import Ordinals
from ray_jobs.shards.placement import MAX_NLIST, Family

# More points than this a centroid do not improve it measurably (faiss's own default is 256).
POINTS_PER_CENTROID = 64
KMEANS_ROUNDS = 10
# Vectors added to faiss at once: bounds the working memory of assignment (100 MB at D = 384).
ADD_ROWS = 65_536
_FP16_MAX = float(np.finfo(np.float16).max)


def train_coarse(
    vectors_ND: NDArray[np.float32], nlist: int, seed: int, use_gpu: bool = False
) -> bytes:
    """The coarse quantizer of a generation, serialised: spherical k-means with `nlist` centroids.

    `vectors_ND`: the item vectors or a sample of them; at most POINTS_PER_CENTROID * nlist are
    used, drawn with `seed`. `use_gpu`: where faiss has one; centroids then differ in the last bits.
    Raises ValueError when there are fewer vectors than centroids.
    """
    refuse_two_faiss()
    _check_vectors(vectors_ND)
    if not 1 <= nlist <= MAX_NLIST:
        raise ValueError(f"nlist must be in 1..{MAX_NLIST}, got {nlist}")
    if len(vectors_ND) < nlist:
        raise ValueError(f"{nlist} centroids need at least as many vectors, got {len(vectors_ND)}")
    kmeans = faiss.Kmeans(
        vectors_ND.shape[1],
        nlist,
        niter=KMEANS_ROUNDS,
        spherical=True,
        seed=seed,
        verbose=False,
        min_points_per_centroid=1,
        max_points_per_centroid=POINTS_PER_CENTROID,
        gpu=use_gpu and gpus() > 0,
    )
    kmeans.train(np.ascontiguousarray(vectors_ND))
    coarse = faiss.IndexFlatIP(vectors_ND.shape[1])
    assert kmeans.centroids is not None, "train() returned"
    coarse.add(kmeans.centroids)
    serialised: NDArray[np.uint8] = faiss.serialize_index(coarse)
    return serialised.tobytes()


def write_coarse(path: Path, coarse: bytes) -> None:
    """Writes what `train_coarse` returned, atomically."""
    with whole_file(path) as temporary:
        temporary.write_bytes(coarse)


def read_coarse(path: Path) -> Any:
    """The coarse quantizer (faiss.IndexFlatIP). Raises MissingArtifact, CorruptArtifact."""
    refuse_two_faiss()
    if not path.is_file():
        raise MissingArtifact(path)
    try:
        coarse = faiss.read_index(str(path))
    except RuntimeError as error:  # what faiss raises for bytes it cannot read
        raise CorruptArtifact(path, expected="a faiss index", actual=str(error)) from error
    if not isinstance(coarse, faiss.IndexFlatIP):
        raise CorruptArtifact(path, expected="IndexFlatIP", actual=type(coarse).__name__)
    return coarse


def write_shard(
    path: Path,
    vectors_ND: NDArray[np.float32],
    ordinals_N: Ordinals,
    family: Family,
    coarse_path: Path | None = None,
    use_gpu: bool = False,
) -> None:
    """Writes one shard atomically; its faiss ids are the ordinals. N may be 0.

    `coarse_path`: the generation's coarse.faiss, needed for IVF and refused for Flat. `use_gpu`:
    where faiss has one, it finds the lists; the file is that of the CPU.
    Raises ValueError (shape, type, repeated or negative ordinals, values that are not finite or do
    not fit fp16) and ShardMismatch (another dimension than the coarse quantizer's).
    """
    refuse_two_faiss()
    _check_vectors(vectors_ND)
    _check_ordinals(ordinals_N, len(vectors_ND))
    if (coarse_path is None) != (family == "Flat"):
        raise ValueError(f"coarse_path is for IVF families only; got {coarse_path} with {family}")
    dim = vectors_ND.shape[1]
    if coarse_path is None:
        index = new_flat(dim)
    else:
        coarse = read_coarse(coarse_path)
        if coarse.d != dim:
            raise ShardMismatch(coarse_path, "dimension", expected=dim, actual=coarse.d)
        if len(vectors_ND) and float(np.abs(vectors_ND).max()) > _FP16_MAX:
            raise ValueError(f"values beyond {_FP16_MAX} do not fit fp16")
        index = new_ivf(coarse)
    order = np.argsort(ordinals_N, kind="stable")
    for start in range(0, len(order), ADD_ROWS):
        rows = order[start : start + ADD_ROWS]
        part_ND, ordinals = np.ascontiguousarray(vectors_ND[rows]), ordinals_N[rows]
        if coarse_path is None:
            index.add_with_ids(part_ND, ordinals)
        else:
            add_to_ivf(index, part_ND, ordinals, use_gpu and gpus() > 0)
    with whole_file(path) as temporary:
        faiss.write_index(index, str(temporary))


def _check_vectors(vectors_ND: NDArray[np.float32]) -> None:
    if vectors_ND.dtype != np.float32 or vectors_ND.ndim != 2 or vectors_ND.shape[1] == 0:
        raise ValueError(
            f"vectors must be float32 [N, D], got {vectors_ND.dtype} {list(vectors_ND.shape)}"
        )
    if not bool(np.isfinite(vectors_ND).all()):
        raise ValueError("vectors must be finite")


def _check_ordinals(ordinals_N: Ordinals, rows: int) -> None:
    if ordinals_N.dtype != np.int64 or ordinals_N.shape != (rows,):
        raise ValueError(
            f"ordinals must be int64 [{rows}], got {ordinals_N.dtype} {list(ordinals_N.shape)}"
        )
    if rows and int(ordinals_N.min()) < 0:
        raise ValueError(f"ordinals must not be negative, got {int(ordinals_N.min())}")
    if len(np.unique(ordinals_N)) != rows:
        raise ValueError("ordinals must not repeat within a shard")
