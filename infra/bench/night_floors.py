"""What each step of a night could not do without, measured beside it: the floors of `night`.

N = items, D = dimension, Q = questions.
"""

import hashlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss as faiss_typed
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ray_jobs.encoders.fold import fold
from ray_jobs.encoders.item_bert import open_bert
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.build import item_vectors
from ray_jobs.nightly.embed import FEW_TEXTS
from ray_jobs.nightly.histories import open_histories
from ray_jobs.nightly.step import Night, Report
from ray_jobs.shards.placement import choose_family
from ray_jobs.shards.writer import KMEANS_ROUNDS, POINTS_PER_CENTROID

faiss: Any = faiss_typed  # its stubs lack `cp`

TEXTS = 1_000
USERS = 50
PRODUCTS = 20
ROWS = 10_000
TABLES = ("items", "texts", "events")
BLOCK = 1 << 20


def floors(night: Night, reports: dict[str, Report]) -> dict[str, float]:
    """Seconds of each step's floor; steps without one are left out. Before the publish, which takes
    the work files away."""
    ordinals_N, vectors_ND = item_vectors(night.workspace)
    product_s = _seconds(lambda: vectors_ND @ vectors_ND[0], PRODUCTS)
    digest_s = _digest_s(night.workspace.directory)
    evaluated = reports["evaluate"]
    models = 2 if "live" in evaluated else 1
    found = {
        "export": _read_s(night.engine.url.database or ""),
        "build": _index_s(vectors_ND, ordinals_N),
        "fuse": reports["fuse"]["questions"] * product_s,
        "fold": _fold_s(night),
        "evaluate": evaluated["questions"] * models * product_s,
        "publish": 2 * digest_s,
        "verify": digest_s,
    }
    embedded = reports["embed"].get("embedded", 0)
    if embedded:
        workers = night.settings.embed_workers if embedded > FEW_TEXTS else 1
        found["embed"] = embedded / (texts_a_second(night) * workers)
    return found


def texts_a_second(night: Night) -> float:
    """Of BERT alone, one thread, on texts of this catalog evenly taken."""
    texts = pq.read_table(night.workspace.texts, columns=["text"])["text"]
    rows = np.unique(np.linspace(0, len(texts) - 1, TEXTS).astype(np.int64))
    taken = texts.take(rows).to_pylist()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encoder = open_bert(night.settings)
    encoder.encode(taken[:64])
    seconds = _seconds(lambda: encoder.encode(taken))
    torch.set_num_threads(threads)
    return len(taken) / seconds


def _read_s(path: str) -> float:
    """Every row of what is exported, by sqlite3 alone."""
    started = time.perf_counter()
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        for table in TABLES:
            cursor = database.execute(f"SELECT * FROM {table}")
            while cursor.fetchmany(ROWS):
                pass
    return time.perf_counter() - started


def _index_s(vectors_ND: NDArray[np.float32], ordinals_N: NDArray[np.int64]) -> float:
    """One index of the same family by faiss alone, on as many threads as the step has here."""
    count, dim = vectors_ND.shape
    choice = choose_family(count)
    started = time.perf_counter()
    if choice.family == "Flat":
        index = faiss.index_factory(dim, "IDMap,Flat", faiss.METRIC_INNER_PRODUCT)
    else:
        description = f"IVF{choice.nlist},SQfp16"
        index = faiss.index_factory(dim, description, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter = KMEANS_ROUNDS
        index.cp.max_points_per_centroid = POINTS_PER_CENTROID
        index.cp.min_points_per_centroid = 1
        index.train(vectors_ND)
    index.add_with_ids(vectors_ND, ordinals_N)
    return time.perf_counter() - started


def _fold_s(night: Night) -> float:
    """The fold's own step, measured on some users, times all events."""
    histories = open_histories(night.workspace)
    encoder = load_weights(night.workspace.directory / "weights.safetensors")
    users = range(min(USERS, len(histories.offsets_U1) - 1))
    events = [histories.events_of(user) for user in users]
    seconds = _seconds(lambda: [fold(encoder, None, history) for history in events])
    return seconds / sum(map(len, events)) * len(histories.user_keys_E)


def _digest_s(directory: Path) -> float:
    """sha256 of every file."""
    started = time.perf_counter()
    for path in directory.rglob("*"):
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
    return time.perf_counter() - started


def _seconds(call: Callable[[], object], times: int = 1) -> float:
    """Median of so many calls."""
    walls = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        walls.append(time.perf_counter() - started)
    return float(np.median(walls))
