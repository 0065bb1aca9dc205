"""Made vectors that lie like embeddings do: in clusters of very different sizes, and in fewer
directions than they have numbers. For the benches of the index.

Real item vectors are not uniform on the sphere: uniform ones have no near neighbours, and make
every index look bad. N = items, B = queries, D = dimension.
"""

import numpy as np
from numpy.typing import NDArray

ITEMS_A_CLUSTER = 200
SIZE_EXPONENT = 0.7
"""Cluster r has a size in proportion to (1 + r) ** -SIZE_EXPONENT, as categories of shops do."""
SPREAD = 0.8
"""Length of what an item adds to its cluster's centre: a cosine of 0.6 within a cluster."""
SPECTRUM = 24.0
"""Direction d has a standard deviation in proportion to 1 / (1 + d / SPECTRUM)."""
USER_ITEMS = 3
CHUNK = 100_000


def clustered(rng: np.random.Generator, count: int, dim: int) -> NDArray[np.float32]:
    """Unit vectors (N, D) in some N / ITEMS_A_CLUSTER clusters, in random order."""
    clusters = max(1, count // ITEMS_A_CLUSTER)
    centres_CD = _directions(rng, clusters, dim)
    sizes_C = (1.0 + np.arange(clusters)) ** -SIZE_EXPONENT
    cluster_N = rng.choice(clusters, count, p=sizes_C / sizes_C.sum())
    vectors_ND = np.empty((count, dim), np.float32)
    for first in range(0, count, CHUNK):
        rows = cluster_N[first : first + CHUNK]
        vectors_ND[first : first + CHUNK] = centres_CD[rows] + SPREAD * _directions(
            rng, len(rows), dim
        )
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND


def like_users(
    rng: np.random.Generator, count: int, vectors_ND: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Unit queries (B, D) that point between USER_ITEMS items of a taste and to none of them, as a
    user vector does: one item, others near it, and something of their own."""
    seeds_B = vectors_ND[rng.choice(len(vectors_ND), count)]
    sample_SD = vectors_ND[rng.choice(len(vectors_ND), min(len(vectors_ND), 20_000), replace=False)]
    queries_BD = np.empty_like(seeds_B)
    for row, seed_D in enumerate(seeds_B):
        near = np.argpartition(-(sample_SD @ seed_D), USER_ITEMS)[:USER_ITEMS]
        queries_BD[row] = seed_D + sample_SD[near].sum(axis=0)
    queries_BD /= np.linalg.norm(queries_BD, axis=1, keepdims=True)
    queries_BD += 0.5 * _directions(rng, count, vectors_ND.shape[1])
    queries_BD /= np.linalg.norm(queries_BD, axis=1, keepdims=True)
    return queries_BD


def like_items(
    rng: np.random.Generator, count: int, vectors_ND: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Unit vectors (M, D) of new items: each near one that is there, as a new film is near another
    of its kind."""
    new_MD: NDArray[np.float32] = vectors_ND[rng.choice(len(vectors_ND), count)]
    new_MD += SPREAD * _directions(rng, count, vectors_ND.shape[1])
    new_MD /= np.linalg.norm(new_MD, axis=1, keepdims=True)
    return new_MD


def _directions(rng: np.random.Generator, count: int, dim: int) -> NDArray[np.float32]:
    rows = rng.standard_normal((count, dim), np.float32)
    rows /= (1.0 + np.arange(dim, dtype=np.float32) / SPECTRUM).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
