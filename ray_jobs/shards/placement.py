"""Which shard holds an ordinal, and which index family a catalog of some size gets.

Both are decided once, by night, and written in the manifest: changing a constant here changes the
next generation and no existing one. N = number of ordinals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Family = Literal["Flat", "IVF,SQfp16"]

# A Flat search of 20,000 x 128 takes about 0.4 ms; above, IVF is quicker and half the bytes.
FLAT_LIMIT = 20_000
MAX_SHARDS = 256
# In one process a second shard costs a search a third more and gains nothing; more are for more
# memory than one has, and to build beside each other (`MOONLARK_SHARDS`).
ITEMS_PER_SHARD = 2_000_000
# nlist = 4 sqrt(n): probing nprobe lists then costs about as much as ranking the centroids
# (faiss wiki, "Guidelines to choose an index").
NLIST_FACTOR = 4
MAX_NLIST = 65_536
# Lists probed where nobody measured (`recall.choose_nprobe` does, by night): one in 62, but at
# least 32 (1M items: 64 of 4,000, as in ANCHORS.md's prototype).
NPROBE_SHARE = 62
MIN_NPROBE = 32


@dataclass(frozen=True, slots=True)
class FamilyChoice:
    """`nlist` and `nprobe` are 0 for Flat."""

    family: Family
    nlist: int
    nprobe: int


def shard_of(ordinals: NDArray[np.int64], shard_count: int) -> NDArray[np.int64]:
    """Shard number of each ordinal: (N,) int64 in [0, shard_count).

    splitmix64's finaliser (Steele, Lea, Flood 2014) modulo the count, and not `ordinal %
    shard_count`: ordinals follow the order of ingestion, so a plain modulus would give a shard
    every other item of a feed that alternates, and the newest items to few shards.
    """
    if shard_count < 1:
        raise ValueError(f"shard_count must be at least 1, got {shard_count}")
    mixed = np.asarray(ordinals, dtype=np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed % np.uint64(shard_count)).astype(np.int64)


def choose_family(item_count: int) -> FamilyChoice:
    """Flat up to FLAT_LIMIT items, IVF,SQfp16 with nlist near 4 sqrt(n) above."""
    if item_count < 0:
        raise ValueError(f"item_count must not be negative, got {item_count}")
    if item_count <= FLAT_LIMIT:
        return FamilyChoice("Flat", 0, 0)
    nlist = min(MAX_NLIST, round(NLIST_FACTOR * math.sqrt(item_count)))
    return FamilyChoice("IVF,SQfp16", nlist, min(nlist, max(MIN_NPROBE, nlist // NPROBE_SHARE)))


def choose_shard_count(item_count: int) -> int:
    """One shard for each ITEMS_PER_SHARD begun, at least one, at most MAX_SHARDS."""
    if item_count < 0:
        raise ValueError(f"item_count must not be negative, got {item_count}")
    return min(MAX_SHARDS, max(1, math.ceil(item_count / ITEMS_PER_SHARD)))
