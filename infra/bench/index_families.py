"""Other families of faiss and other libraries beside moonlark's index, on one catalog.

Each is built with its library's defaults, and timed at the least setting that reaches the promised
recall, found by bisection. One query at a time, one thread, in turn. Part of `infra.bench.index`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss as faiss_typed
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infra.bench.index_catalog import CORES, PROMISED, K
from infra.bench.rounds import Times, in_turn
from ray_jobs.shards.placement import NLIST_FACTOR
from ray_jobs.shards.recall import exact_nearest, recalls_of

try:
    import hnswlib
    from usearch.index import Index as UsearchIndex
except ImportError:  # the extra [evaluation]
    HAS_PEERS = False
else:
    HAS_PEERS = True

faiss: Any = faiss_typed  # its stubs contradict its own wrappers

Floats = NDArray[np.float32]
Ordinals = NDArray[np.int64]

MOST_PROBES = 256
MOST_EFFORT = 800
"""efSearch of the graphs, which begins at K: below they cannot find K."""
REFINED = 10
"""Rows that are scored again in fp16, in multiples of K."""
LINKS = 16
"""Of a row of a graph: what hnswlib and usearch have where nobody says otherwise."""
HNSWLIB_SEED = 0


@dataclass(frozen=True)
class FamilyRow:
    """One family at the setting that was timed."""

    name: str
    is_peer: bool
    """Another library, not another family of ours."""
    setting: str
    recall: float
    times: Times
    queries: int
    build_s: float
    size: int

    @property
    def cells(self) -> tuple[str, ...]:
        """As a row of a table."""
        us = 1e6 * self.times.wall_s / self.queries
        return (
            self.name,
            self.setting,
            f"{self.recall:.4f}",
            f"{us:.0f}",
            f"{self.build_s:.1f}",
            f"{self.size / 1e6:.0f}",
        )


@dataclass(frozen=True)
class Subject:
    """An index that was built: how it searches at a setting."""

    name: str
    is_peer: bool
    search: Callable[[Floats], Ordinals]
    """Ordinals (B, K) of queries (B, D)."""
    set_to: Callable[[int], None]
    least: int
    most: int
    """The settings that it may have."""
    setting: str
    build_s: float
    size: int


def families(
    ours: Subject, vectors_ND: Floats, asked_BD: Floats, rounds: int, timed: int
) -> list[FamilyRow]:
    """A row each; the first is `ours`. `timed`: queries a round, the first of `asked_BD`."""
    ordinals_N = np.arange(len(vectors_ND), dtype=np.int64)
    _, true_BK = exact_nearest(asked_BD, vectors_ND, ordinals_N, K)
    subjects = [ours]
    subjects += [build(vectors_ND) for build in tqdm(BUILDERS, desc="families", leave=False)]
    faiss.omp_set_num_threads(1)
    try:
        settings = {subject.name: bisect(subject, asked_BD, true_BK) for subject in subjects}
        calls = {subject.name: _one_by_one(subject, asked_BD[:timed]) for subject in subjects}
        times = in_turn(calls, rounds, "families")
    finally:
        faiss.omp_set_num_threads(CORES)
    return [
        FamilyRow(
            name=subject.name,
            is_peer=subject.is_peer,
            setting=subject.setting.format(settings[subject.name][0]),
            recall=settings[subject.name][1],
            times=times[subject.name],
            queries=timed,
            build_s=subject.build_s,
            size=subject.size,
        )
        for subject in subjects
    ]


def bisect(subject: Subject, asked_BD: Floats, true_BK: Ordinals) -> tuple[int, float]:
    """Sets it to the least setting that reaches the promise, or to its most: the setting, its
    recall. More effort is taken to find no less."""

    def recall_at(value: int) -> float:
        subject.set_to(value)
        return float(recalls_of(subject.search(asked_BD), true_BK).mean())

    low, high = subject.least, subject.most
    while low < high:
        middle = (low + high) // 2
        if recall_at(middle) >= PROMISED:
            high = middle
        else:
            low = middle + 1
    return high, recall_at(high)


def _one_by_one(subject: Subject, queries_BD: Floats) -> Callable[[], object]:
    def each() -> None:
        for row in range(len(queries_BD)):
            subject.search(queries_BD[row : row + 1])

    return each


def _of_faiss(name: str, factory: str, refines: bool, vectors_ND: Floats) -> Subject:
    """An IVF or a graph by `faiss.index_factory`, nlist as moonlark chooses it."""
    began = time.perf_counter()
    nlist = round(NLIST_FACTOR * len(vectors_ND) ** 0.5)
    index = faiss.index_factory(
        vectors_ND.shape[1], factory.format(nlist=nlist), faiss.METRIC_INNER_PRODUCT
    )
    index.train(vectors_ND)
    index.add(vectors_ND)
    build_s = time.perf_counter() - began
    inner = faiss.downcast_index(index.base_index) if refines else index
    if refines:
        index.k_factor = REFINED
    is_graph = hasattr(inner, "hnsw")

    def set_to(value: int) -> None:
        if is_graph:
            inner.hnsw.efSearch = value
        elif factory != "Flat":
            inner.nprobe = value

    return Subject(
        name=name,
        is_peer=False,
        search=lambda queries_BD: np.asarray(index.search(queries_BD, K)[1]),
        set_to=set_to,
        least=K if is_graph else 1,
        most=MOST_EFFORT if is_graph else MOST_PROBES if factory != "Flat" else 1,
        setting="efSearch {}" if is_graph else "nprobe {}" if factory != "Flat" else "exact",
        build_s=build_s,
        size=len(faiss.serialize_index(index)),
    )


def _of_hnswlib(vectors_ND: Floats) -> Subject:
    began = time.perf_counter()
    index = hnswlib.Index(space="ip", dim=vectors_ND.shape[1])
    index.init_index(max_elements=len(vectors_ND), random_seed=HNSWLIB_SEED)
    index.add_items(vectors_ND)
    build_s = time.perf_counter() - began
    index.set_num_threads(1)
    return Subject(
        name="hnswlib",
        is_peer=True,
        search=lambda queries_BD: index.knn_query(queries_BD, k=K)[0].astype(np.int64),
        set_to=index.set_ef,
        least=K,
        most=MOST_EFFORT,
        setting=f"M {index.M}, built with ef {index.ef_construction}, ef {{}}",
        build_s=build_s,
        size=index.index_file_size(),
    )


def _of_usearch(vectors_ND: Floats) -> Subject:
    began = time.perf_counter()
    index = UsearchIndex(ndim=vectors_ND.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(len(vectors_ND)), vectors_ND)
    build_s = time.perf_counter() - began

    def search(queries_BD: Floats) -> Ordinals:
        if len(queries_BD) == 1:
            found = index.search(queries_BD[0], K, threads=1)
            return np.asarray(found.keys, np.int64)[None]
        return np.asarray(index.search(queries_BD, K).keys, np.int64)

    return Subject(
        name="usearch",
        is_peer=True,
        search=search,
        set_to=lambda effort: setattr(index, "expansion_search", effort),
        least=K,
        most=MOST_EFFORT,
        setting=(
            f"f16, connectivity {index.connectivity}, built with expansion {index.expansion_add}, "
            "expansion {}"
        ),
        build_s=build_s,
        size=index.serialized_length,
    )


BUILDERS: tuple[Callable[[Floats], Subject], ...] = (
    partial(_of_faiss, "Flat", "Flat", False),
    partial(_of_faiss, "IVF-Flat", "IVF{nlist},Flat", False),
    partial(_of_faiss, "IVF-SQfp16", "IVF{nlist},SQfp16", False),
    partial(_of_faiss, "IVF-SQ8", "IVF{nlist},SQ8", False),
    partial(_of_faiss, "IVF-PQ fast scan, refined", "IVF{nlist},PQ64x4fs,Refine(SQfp16)", True),
    partial(_of_faiss, "IVF-RaBitQ, refined", "IVF{nlist},RaBitQ,Refine(SQfp16)", True),
    partial(_of_faiss, "HNSW fp16", f"HNSW{LINKS}_SQfp16", False),
    *((_of_hnswlib, _of_usearch) if HAS_PEERS else ()),
)
