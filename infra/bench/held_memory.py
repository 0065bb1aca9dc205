"""What a generation costs in a process that holds it: memory, and the time of a search.

    python -m infra.bench.held_memory ROOT

Prints one JSON object. A process of its own: nothing else is in its memory, and what it cost before
(the interpreter and the libraries) is measured first. Everything is touched, as a day of requests
touches it: each list of the index, each text vector, each neighbour.
"""

import argparse
import gc
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import faiss
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.bench.made_generation import GENERATION, made_vectors
from infra.bench.process_memory import memory_of
from ray_jobs.compiled import compile_all
from ray_jobs.encoders.fold import FoldEvent, fold
from ray_jobs.encoders.session import Session
from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.shards.items import ITEMS_NAME
from ray_jobs.shards.search import search
from ray_jobs.shards.texts import TextVectors
from serve import gateway
from serve.loaded_generation import LoadedGeneration
from serve.session_cache import CachedSession, SessionCache

SEARCHES = 200
WARM = 20
K = 200
"""Candidates of a list (`ray_jobs.ranking.candidates`)."""
CHUNK = 65_536
SECOND = "second"
"""A folder in the root, with the files of the second generation."""
USERS, SEEN = 10_000, 50


def settled_memory() -> dict[str, int]:
    """Bytes of this process, `private` and `mapped`, once it has given back what it can.

    Mapped is whole, not its share of what others map too: who starts or ends beside it does not
    change what a generation adds.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()
    own = memory_of().private
    return {"private": own, "mapped": psutil.Process().memory_info().shared}


def touch(generation: LoadedGeneration, texts: TextVectors) -> None:
    """Read all that requests read, some time. `texts`: of the same files, mapped once more."""
    shards, priors = generation.shards, generation.priors
    if shards.nlist:
        query_D = np.zeros(shards.dim, np.float32)
        query_D[0] = 1.0
        search(shards, generation.view.delta, query_D, 10, nprobe=shards.nlist)
    arrays: list[NDArray[np.generic]] = [texts.vectors]
    if priors is not None:
        beside = priors.neighbours
        arrays += [priors.activity.ordinals, priors.activity.sums]
        arrays += [beside.offsets_S1, beside.ordinals_E, beside.weights_E2]
        whole = beside.whole
        arrays += [whole.factors_MK, whole.before_MJ, whole.after_CJ]
    for array in arrays:
        flat = array.reshape(-1).view(np.uint8)
        for first in range(0, len(flat), CHUNK * 1_024):
            int(flat[first : first + CHUNK * 1_024 : 1_024].max())


def search_times(generation: LoadedGeneration) -> tuple[float, float]:
    """Median wall and mean CPU seconds of one search for K candidates."""
    rng = np.random.default_rng(1)
    shards, delta = generation.shards, generation.view.delta
    found, _ = shards.vectors_of(shards.ordinals[:1])
    assert bool(found.all())
    rows = rng.integers(shards.count, size=WARM + SEARCHES)
    _, near_QD = shards.vectors_of(np.sort(shards.ordinals[rows]))
    noise_QD = made_vectors(len(near_QD), shards.dim, rng)
    queries_QD = near_QD + 0.5 * noise_QD
    queries_QD /= np.linalg.norm(queries_QD, axis=1, keepdims=True)
    for query_D in queries_QD[:WARM]:
        search(shards, delta, query_D, K)
    walls = []
    cpu = time.process_time()
    for query_D in queries_QD[WARM:]:
        wall = time.perf_counter()
        search(shards, delta, query_D, K)
        walls.append(time.perf_counter() - wall)
    return float(np.median(walls)), (time.process_time() - cpu) / SEARCHES


def session_bytes(generation: LoadedGeneration, users: int) -> float:
    """Private bytes of a user in the session cache: each read from its row, and one event folded,
    as a request does it."""
    encoder, rng = generation.encoder, np.random.default_rng(5)
    text_E = np.ones(encoder.config.text_dim, np.float32)
    seen = rng.choice(generation.manifest.item_count, SEEN, replace=False).tolist()
    *first, last = [FoldEvent(n + 1, "view", item, text_E) for n, item in enumerate(seen)]
    row = fold(encoder, None, first).to_bytes()
    cache = SessionCache(users)
    before = settled_memory()["private"]
    for user in range(users):
        session = fold(encoder, Session.from_bytes(bytes(row)), [last])
        cache.put(GENERATION, f"user-{user}", CachedSession(user, session))
    return (settled_memory()["private"] - before) / users


def item_bytes(directory: Path) -> float:
    """Mean bytes of id, title, category and attributes of an item."""
    columns = ["item_id", "title", "category", "attributes"]
    table = pq.read_table(directory / ITEMS_NAME, columns=columns)
    lengths = [pc.sum(pc.binary_length(column)).as_py() or 0 for column in table.columns]
    return float(sum(lengths) / len(table))


def opened(root: Path) -> tuple[LoadedGeneration, TextVectors, float]:
    """A generation, all touched; its texts, mapped once more; seconds until it could answer."""
    started = time.perf_counter()
    generation = LoadedGeneration.open(root, GENERATION)
    generation.warm()
    load_s = time.perf_counter() - started
    texts = TextVectors.open(generation_directory(root, GENERATION))
    texts.rows_of([f"{n:032x}" for n in range(0, len(texts), 128)])  # a digest in each page
    touch(generation, texts)
    return generation, texts, load_s


def held(root: Path) -> Mapping[str, object]:
    """Load, warm and touch the made generation under `root`; and then a copy of its files beside
    it, as a replica holds the live one and the one before."""
    faiss.omp_set_num_threads(1)  # as in a replica
    assert callable(gateway.build_api)  # what a replica imports is in memory before
    compile_all()  # and its kernels, which the first process of an installation compiles
    before = settled_memory()
    generation, texts, load_s = opened(root)
    wall_s, cpu_s = search_times(generation)
    after = settled_memory()
    copied = root / SECOND
    shutil.copytree(
        generation_directory(root, GENERATION), generation_directory(copied, GENERATION)
    )
    second, texts_of_second, _ = opened(copied)
    search_times(second)
    assert len(texts) == len(texts_of_second), "both are held to the end"
    return {
        "before": before,
        "after": after,
        "after_two": settled_memory(),
        "item_bytes": item_bytes(generation_directory(root, GENERATION)),
        "load_s": load_s,
        "search_wall_s": wall_s,
        "search_cpu_s": cpu_s,
        "session_bytes": session_bytes(generation, USERS),
    }


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.held_memory")
    parser.add_argument("root", type=Path)
    print(json.dumps(held(parser.parse_args().root)))


if __name__ == "__main__":
    main()
