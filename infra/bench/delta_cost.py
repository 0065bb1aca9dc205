"""The time of a search by the size of the delta, in a process of its own.

    python -m infra.bench.delta_cost ROOT 0 1000 10000

The sizes in turn, round by round, over the made generation under ROOT; one JSON object by size.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from infra.bench.made_generation import GENERATION, made_vectors
from infra.bench.rounds import in_turn
from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.shards.delta import Delta, DeltaChange
from ray_jobs.shards.manifest import open_manifest
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.search import search

ROUNDS = 200
K = 200
SHARE_EDITED = 0.5
"""Of the changes: edits of items that the night had; the others are new."""


def searches(root: Path, sizes: Sequence[int]) -> dict[int, float]:
    """Median seconds of one search by number of changed items."""
    faiss.omp_set_num_threads(1)  # as in a replica
    directory = generation_directory(root, GENERATION)
    shards = ShardSet.open(directory, open_manifest(directory))
    rng = np.random.default_rng(2)
    queries = cycle(made_vectors(ROUNDS, shards.dim, rng))
    variants: dict[str, Callable[[], object]] = {}
    for size in sizes:
        edited = rng.choice(shards.count, int(size * SHARE_EDITED), replace=False)
        new = shards.count + np.arange(size - len(edited))
        vectors = made_vectors(size, shards.dim, rng) if size else np.zeros((0, shards.dim))
        changes = [
            DeltaChange(int(ordinal), vector)
            for ordinal, vector in zip(np.concatenate([edited, new]), vectors, strict=True)
        ]
        variants[str(size)] = partial(_search, shards, Delta.empty(shards).apply(changes), queries)
    times = in_turn(variants, ROUNDS, "delta", warm=5)
    return {size: times[str(size)].wall_s for size in sizes}


def _search(shards: ShardSet, delta: Delta, queries: Iterator[NDArray[np.float32]]) -> None:
    search(shards, delta, next(queries), K)


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.delta_cost")
    parser.add_argument("root", type=Path)
    parser.add_argument("sizes", type=int, nargs="+")
    arguments = parser.parse_args()
    print(json.dumps(searches(arguments.root, arguments.sizes)))


if __name__ == "__main__":
    main()
