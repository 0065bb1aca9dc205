"""Made vectors that lie like embeddings do: in clusters of very different sizes, and in fewer
directions than they have numbers. For the benches of the index and of the API.

Real item vectors are not uniform on the sphere: uniform ones have no near neighbours, and make
every index look bad. N = items, C = clusters, B = queries, D = dimension.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.recall import exact_nearest

ITEMS_A_CLUSTER = 200
CLUSTERS_A_TOPIC = 25
"""Kinds lie in topics: what is near a small kind are the other kinds of its topic."""
SIZE_EXPONENT = 0.7
"""Cluster r has a size in proportion to (1 + r) ** -SIZE_EXPONENT, as categories of shops do."""
SPREAD = 0.8
"""Length of what an item adds to its cluster's centre, and a centre to its topic's: a cosine of 0.6
within each."""
SPECTRUM = 24.0
"""Direction d has a standard deviation in proportion to 1 / (1 + d / SPECTRUM)."""
USER_ITEMS, TASTE = 3, 50
"""A user took some of the items that are nearest to one of them."""
OWN = 1.0
"""Length of what no item has: users lie further from the items than items from each other."""
CHUNK = 100_000


@dataclass(frozen=True)
class Clusters:
    """Which items lie together. `topic_C`: of each cluster; `centres_CD`: unit vectors."""

    cluster_N: NDArray[np.int64]
    topic_C: NDArray[np.int64]
    centres_CD: NDArray[np.float32]

    @classmethod
    def make(cls, rng: np.random.Generator, count: int, dim: int) -> Self:
        """`count` items in some count / ITEMS_A_CLUSTER clusters, in random order."""
        clusters = max(1, count // ITEMS_A_CLUSTER)
        topics_TD = _directions(rng, max(1, clusters // CLUSTERS_A_TOPIC), dim)
        topic_C = rng.integers(0, len(topics_TD), clusters)
        centres_CD = topics_TD[topic_C]
        centres_CD += SPREAD * _directions(rng, clusters, dim)
        centres_CD /= np.linalg.norm(centres_CD, axis=1, keepdims=True)
        sizes_C = (1.0 + np.arange(clusters)) ** -SIZE_EXPONENT
        cluster_N = rng.choice(clusters, count, p=sizes_C / sizes_C.sum())
        return cls(cluster_N, topic_C, centres_CD)

    def vectors(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Unit vectors (N, D): the centre of each item's cluster, and something of its own."""
        count, dim = len(self.cluster_N), self.centres_CD.shape[1]
        vectors_ND = np.empty((count, dim), np.float32)
        for first in range(0, count, CHUNK):
            rows = self.cluster_N[first : first + CHUNK]
            vectors_ND[first : first + CHUNK] = self.centres_CD[rows] + SPREAD * _directions(
                rng, len(rows), dim
            )
        vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return vectors_ND


def clustered(rng: np.random.Generator, count: int, dim: int) -> NDArray[np.float32]:
    """Vectors (N, D) of made clusters."""
    return Clusters.make(rng, count, dim).vectors(rng)


def like_users(
    rng: np.random.Generator, count: int, vectors_ND: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Unit queries (B, D) that point between USER_ITEMS items of a taste and to none of them, as a
    user vector does: one item, others near it, and something of their own."""
    seeds_BD = vectors_ND[rng.choice(len(vectors_ND), count)]
    near_BK = exact_nearest(seeds_BD, vectors_ND, np.arange(len(vectors_ND)), TASTE)[0]
    picked_BU = rng.integers(0, near_BK.shape[1], (count, USER_ITEMS))
    taken_BUD = vectors_ND[np.take_along_axis(near_BK, picked_BU, axis=1)]
    queries_BD: NDArray[np.float32] = seeds_BD + taken_BUD.sum(axis=1)
    queries_BD /= np.linalg.norm(queries_BD, axis=1, keepdims=True)
    queries_BD += OWN * _directions(rng, count, vectors_ND.shape[1])
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
