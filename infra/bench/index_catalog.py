"""A made catalog, its shards as a night writes them, and deltas over them. Part of the index bench.

B = queries, K = true nearest, N = items, M = changed rows, D = dimension.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infra.bench.vectors import clustered, like_items, like_users
from ray_jobs.shards.delta import SEAL_AT, Delta, DeltaChange
from ray_jobs.shards.manifest import (
    COARSE_NAME,
    REQUIRED_FILES,
    open_manifest,
    shard_name,
    write_manifest,
)
from ray_jobs.shards.placement import choose_family, shard_of
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.recall import choose_nprobe, exact_nearest
from ray_jobs.shards.search import search
from ray_jobs.shards.writer import read_coarse, train_coarse, write_coarse, write_shard

SEED = 0
DIM = 128
CORES = os.cpu_count() or 1
"""Builds and exact searches have all of them, a timed search one."""
K = 100
PROMISED = 0.99
EDITED, ADDED = 0.45, 0.45
"""Of the changes of a delta; the rest are deletions."""
BATCH = 10_000
"""Changes applied at once, as a replica does that catches up."""
HEAD = SEAL_AT // 2
"""The last changes come after the bulk: the exact head of a delta is half full on the average."""


@dataclass(frozen=True)
class Catalog:
    """What all variants of this bench search."""

    vectors_ND: NDArray[np.float32]
    ordinals_N: NDArray[np.int64]
    chosen_BD: NDArray[np.float32]
    """Queries that nprobe is chosen with."""
    asked_BD: NDArray[np.float32]
    """Queries that everything is measured with."""


@dataclass(frozen=True)
class Built:
    """Shards of a catalog: as opened, and what it took."""

    shards: ShardSet
    coarse: bytes
    nprobe: int
    train_s: float
    write_s: float
    open_s: float
    choose_s: float
    size: int
    """Bytes of the shards' files."""


@dataclass(frozen=True)
class Changed:
    """The catalog after some of it changed."""

    delta: Delta
    true_BK: NDArray[np.int64]
    seconds: float
    """To apply the changes."""
    changes: int


def make_catalog(items: int, queries: int) -> Catalog:
    rng = np.random.default_rng(SEED)
    vectors_ND = clustered(rng, items, DIM)
    return Catalog(
        vectors_ND,
        np.arange(items, dtype=np.int64),
        like_users(rng, queries, vectors_ND),
        like_users(rng, queries, vectors_ND),
    )


def build_shards(catalog: Catalog, folder: Path, shards: int, like: Built | None = None) -> Built:
    """A generation by the night's writer, with the centroids and nprobe of `like` or its own."""
    folder.mkdir()
    items = len(catalog.ordinals_N)
    # As `choose_family`, but IVF also for the small catalog of a trial.
    nlist = choose_family(items).nlist or int(4 * np.sqrt(items))
    began = time.perf_counter()
    coarse = train_coarse(catalog.vectors_ND, nlist, SEED) if like is None else like.coarse
    write_coarse(folder / COARSE_NAME, coarse)
    trained = time.perf_counter()
    shard_N = shard_of(catalog.ordinals_N, shards)
    for number in tqdm(range(shards), desc="shards", leave=False):
        here = shard_N == number
        path = folder / shard_name(number)
        path.parent.mkdir(exist_ok=True)
        vectors_ND, ordinals_N = catalog.vectors_ND[here], catalog.ordinals_N[here]
        write_shard(path, vectors_ND, ordinals_N, "IVF,SQfp16", folder / COARSE_NAME)
    written = time.perf_counter()
    opened = _open(folder, items, nlist, shards)
    ready = time.perf_counter()
    if like is not None:
        nprobe = like.nprobe
    else:
        nprobe = choose_nprobe(
            read_coarse(folder / COARSE_NAME),
            catalog.chosen_BD,
            catalog.vectors_ND,
            catalog.ordinals_N,
            lambda queries_BD, k, lists: opened.search_all(queries_BD, k, lists)[1],
            PROMISED,
        ).nprobe
    return Built(
        shards=opened,
        coarse=coarse,
        nprobe=nprobe,
        train_s=trained - began,
        write_s=written - trained,
        open_s=ready - written,
        choose_s=time.perf_counter() - ready,
        size=sum((folder / shard_name(number)).stat().st_size for number in range(shards)),
    )


def _open(folder: Path, items: int, nlist: int, shards: int) -> ShardSet:
    for name in REQUIRED_FILES:  # the generation's other files, which no search reads
        (folder / name).write_bytes(b"")
    write_manifest(
        folder,
        generation_id="bench",
        encoder_id="none",
        text_dim=1,
        dim=DIM,
        family="IVF,SQfp16",
        nlist=nlist,
        nprobe=nlist,  # every search of this bench names its own
        shard_count=shards,
        item_count=items,
        catalog_seq=0,
    )
    return ShardSet.open(folder, open_manifest(folder))


def make_delta(catalog: Catalog, base: ShardSet, share: float) -> Changed:
    """A delta of that share of the items over `base`, and what is nearest then."""
    rng = np.random.default_rng(SEED + round(1_000 * share))
    items = len(catalog.ordinals_N)
    changes = round(share * items)
    edited, added = round(EDITED * changes), round(ADDED * changes)
    touched = rng.choice(items, changes - added, replace=False)
    put = np.concatenate([touched[:edited], np.arange(items, items + added)])
    rows_MD = like_items(rng, len(put), catalog.vectors_ND)
    log = [DeltaChange(int(o), row_D) for o, row_D in zip(put, rows_MD, strict=True)]
    log += [DeltaChange(int(ordinal), None) for ordinal in touched[edited:]]
    log = [log[place] for place in rng.permutation(len(log))]
    delta = Delta.empty(base)
    began = time.perf_counter()
    bulk = max(0, len(log) - HEAD)
    for first in range(0, bulk, BATCH):
        delta = delta.apply(log[first : min(bulk, first + BATCH)])
    delta = delta.apply(log[bulk:])
    seconds = time.perf_counter() - began
    kept = np.ones(items, np.bool_)
    kept[touched] = False
    live_ND = np.concatenate([catalog.vectors_ND[kept], rows_MD])
    live_N = np.concatenate([catalog.ordinals_N[kept], put])
    return Changed(delta, exact_nearest(catalog.asked_BD, live_ND, live_N, K)[1], seconds, changes)


def searched(
    queries_BD: NDArray[np.float32], shards: ShardSet, delta: Delta, nprobe: int
) -> NDArray[np.int64]:
    """Ordinals (B, K), one query after the other, as a replica asks."""
    found = [search(shards, delta, query_D, K, nprobe=nprobe)[1] for query_D in queries_BD]
    return np.array(found)
