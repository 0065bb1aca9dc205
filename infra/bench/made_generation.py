"""A generation of any size on disk, for benches: vectors, titles and neighbours are made, the files
are those of a night, written by the shipped code.

    python -m infra.bench.made_generation FOLDER ITEMS

Run as a process, so that what it took to make does not count as what it takes to hold. N = items,
E = width of text vectors, D = dimension, R = items with a residual.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ray_jobs.encoders.config import UserLSTMConfig
from ray_jobs.encoders.fit import FitResult
from ray_jobs.encoders.user_lstm import UserLSTM
from ray_jobs.encoders.weights import load_weights, save_weights
from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.ranking.activity import HORIZONS_DAYS, Activity
from ray_jobs.ranking.fusion import FEATURES, Fusion, UserWeights
from ray_jobs.ranking.neighbours import Neighbours
from ray_jobs.ranking.priors import Priors
from ray_jobs.ranking.whole_history import (
    FACTORS,
    LATE_FACTORS,
    LATE_ITEMS,
    MOST_ITEMS,
    WholeHistory,
)
from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.items import Item, attributes_json, write_items
from ray_jobs.shards.manifest import COARSE_NAME, shard_name, write_manifest
from ray_jobs.shards.placement import choose_family, choose_shard_count, shard_of
from ray_jobs.shards.texts import write_text_vectors
from ray_jobs.shards.writer import train_coarse, write_coarse, write_shard

GENERATION = "made"
ENCODER_ID = "made-vectors"
CATEGORIES = 40
CLUSTERS = 2_000
SPREAD = 0.6
"""Of a cluster, in lengths of its centre: neighbours at a cosine of some 0.7, as of real texts."""
RESIDUAL_SHARE = 0.2
"""Of items with events enough for a residual of their own."""
ACTIVE_SHARE = 0.5
ROWS_AT_ONCE = 50_000
ADJECTIVES = ("Quiet", "Burning", "Last", "Silver", "Hidden", "Broken", "Golden", "Northern")
NOUNS = ("Harbour", "Garden", "Winter", "Letter", "Mountain", "Brother", "Machine", "Promise")


@dataclass(frozen=True)
class Shape:
    """What is made."""

    items: int
    dim: int = 128
    text_dim: int = 384
    neighbours: int = 20
    """Entries of each item."""


def made_vectors(count: int, dim: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit vectors (count, dim) in clusters, as embeddings of texts lie."""
    centres = rng.standard_normal((min(CLUSTERS, count), dim), dtype=np.float32)
    vectors = np.empty((count, dim), np.float32)
    for first in range(0, count, ROWS_AT_ONCE):
        part = vectors[first : first + ROWS_AT_ONCE]
        rng.standard_normal(out=part, dtype=np.float32)
        part *= SPREAD
        part += centres[rng.integers(len(centres), size=len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def make_generation(root: Path, shape: Shape, seed: int = 0) -> Path:
    """Write it under `root`; gives its folder."""
    directory = generation_directory(root, GENERATION)
    (directory / "shards").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    ordinals_N = np.arange(shape.items, dtype=np.int64)
    bert_NE = made_vectors(shape.items, shape.text_dim, rng)
    write_text_vectors(directory, [f"{n:032x}" for n in range(shape.items)], bert_NE)
    write_items(directory, _items(shape.items, rng))
    _draw_weights(directory, shape, rng, seed)
    encoder = load_weights(directory / "weights.safetensors")
    vectors_ND = encoder.item_vectors(bert_NE, ordinals_N)
    del bert_NE
    choice = choose_family(shape.items)
    coarse: Path | None = None
    if choice.family != "Flat":
        coarse = directory / COARSE_NAME
        write_coarse(coarse, train_coarse(vectors_ND, choice.nlist, seed=seed))
    shards = choose_shard_count(shape.items)
    numbers = shard_of(ordinals_N, shards)
    for number in range(shards):
        here = numbers == number
        path = directory / shard_name(number)
        write_shard(path, vectors_ND[here], ordinals_N[here], choice.family, coarse)
    _priors(shape, rng).write(directory, whole_file)
    write_manifest(
        directory,
        generation_id=GENERATION,
        encoder_id=ENCODER_ID,
        text_dim=shape.text_dim,
        dim=shape.dim,
        family=choice.family,
        nlist=choice.nlist,
        nprobe=choice.nprobe,
        shard_count=shards,
        item_count=shape.items,
        catalog_seq=shape.items,
    )
    return directory


def _items(count: int, rng: np.random.Generator) -> Iterator[Item]:
    words = rng.integers(len(NOUNS), size=(count, 3))
    years = rng.integers(1930, 2026, size=count)
    for n in range(count):
        first, second, third = words[n]
        yield Item(
            ordinal=n,
            item_id=f"item-{n}",
            title=f"{ADJECTIVES[first]} {NOUNS[second]} of the {NOUNS[third]} {n}",
            category=f"category {n % CATEGORIES}",
            attributes_json=attributes_json({"year": int(years[n]), "genres": [NOUNS[first]]}),
            published_at_ms=1_600_000_000_000 + n,
            text_digest=f"{n:032x}",
        )


def _draw_weights(directory: Path, shape: Shape, rng: np.random.Generator, seed: int) -> None:
    residuals = int(shape.items * RESIDUAL_SHARE)
    config = UserLSTMConfig(
        text_dim=shape.text_dim, dim=shape.dim, hidden=shape.dim, residual_count=residuals
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UserLSTM(config).eval()
    owners = np.sort(rng.choice(shape.items, residuals, replace=False)).astype(np.int64)
    save_weights(directory / "weights.safetensors", FitResult(model, owners, (), 0))


def _priors(shape: Shape, rng: np.random.Generator) -> Priors:
    active = np.arange(int(shape.items * ACTIVE_SHARE), dtype=np.int64)
    sums = rng.random((len(active), len(HORIZONS_DAYS)), dtype=np.float32)
    entries = shape.items * shape.neighbours
    nothing = (0.0,) * len(FEATURES)
    weights = UserWeights(known=nothing, new=nothing)
    return Priors(
        Fusion(lively=weights, quiet=weights, usual_month=1.0, questions=0),
        Activity(active, sums, 0),
        Neighbours(
            np.arange(shape.items + 1, dtype=np.int64) * shape.neighbours,
            rng.integers(shape.items, size=entries).astype(np.int32),
            rng.random((entries, 2), dtype=np.float32).astype(np.float16),
            _whole(shape, rng),
        ),
    )


def _whole(shape: Shape, rng: np.random.Generator) -> WholeHistory:
    """As large as it may be."""
    items = np.arange(min(shape.items, MOST_ITEMS), dtype=np.int64)
    late = items[:LATE_ITEMS]
    factors, before, after = (
        rng.standard_normal((count, width), dtype=np.float32) / np.float32(width)
        for count, width in (
            (len(items), FACTORS),
            (len(items), LATE_FACTORS),
            (len(late), LATE_FACTORS),
        )
    )
    return WholeHistory(items, factors, before, late, after)


def main() -> None:
    """Make one in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.made_generation")
    parser.add_argument("root", type=Path)
    parser.add_argument("items", type=int)
    arguments = parser.parse_args()
    print(make_generation(arguments.root, Shape(arguments.items)))


if __name__ == "__main__":
    main()
