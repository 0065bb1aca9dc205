"""Opens a generation's shards (IVF ones memory-mapped) for search by day.

    Shard      one file of shards/
    ShardSet   all of them, with the coarse quantizer they share; ranks the centroids once a query
    Shards     what a search needs of them, wherever they are (`distant` has the other kind)

Shard and ShardSet are read-only and safe to share between threads (faiss releases the GIL in a
search). Replicas on one machine share the pages. B = queries, K = results, D = dimension,
N = ordinals asked for, Q = queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.errors import CorruptArtifact, MissingArtifact, ShardMismatch
from ray_jobs.shards.faiss_guard import refuse_two_faiss
from ray_jobs.shards.faiss_index import (
    AllowedOrdinals,
    Assignment,
    StoredVectors,
    assign_lists,
    search_flat,
    search_ivf,
)
from ray_jobs.shards.manifest import COARSE_NAME, Manifest, shard_name
from ray_jobs.shards.merge import Ordinals, Ranked, merge_top_k_batch, unpadded
from ray_jobs.shards.ordinal_rows import OrdinalRows
from ray_jobs.shards.placement import Family
from ray_jobs.shards.writer import read_coarse


class Shard:
    """One index file. `count` vectors of `dim`; `nlist` is 0 for Flat."""

    def __init__(self, path: Path, family: Family, index: Any) -> None:
        self.path = path
        self.family = family
        self._index = index
        self.dim = int(index.d)
        self.count = int(index.ntotal)
        self.nlist = 0 if family == "Flat" else int(index.nlist)

    @classmethod
    def open(cls, path: Path, family: Family) -> Shard:
        """Maps the file. Raises MissingArtifact, CorruptArtifact (unreadable or another family).

        IO_FLAG_MMAP_IFC and not IO_FLAG_MMAP, whose lists start up to 32 threads a search to
        prefetch (measured 1.5 ms against 0.17 for 100,000 x 128). A Flat file is read into memory:
        it is small, and its float32 rows do not lie at multiples of 4 in the file.
        """
        refuse_two_faiss()
        if not path.is_file():
            raise MissingArtifact(path)
        try:
            # read_index gives the concrete class, and owns it (downcast_index would not).
            flags = 0 if family == "Flat" else faiss.IO_FLAG_MMAP_IFC
            index: Any = faiss.read_index(str(path), flags)
        except RuntimeError as error:  # what faiss raises for bytes it cannot read
            raise CorruptArtifact(path, expected="a faiss index", actual=str(error)) from error
        wanted: Any = faiss.IndexIDMap if family == "Flat" else faiss.IndexIVFScalarQuantizer
        if not isinstance(index, wanted):
            raise CorruptArtifact(path, expected=wanted.__name__, actual=type(index).__name__)
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise CorruptArtifact(path, expected="inner product", actual=index.metric_type)
        if family != "Flat" and (index.by_residual or index.code_size != 2 * index.d):
            raise CorruptArtifact(path, expected="fp16 codes without residual", actual="others")
        return cls(path, family, index)

    def search(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        nprobe: int = 0,
        selector: AllowedOrdinals | None = None,
    ) -> Ranked:
        """Top k of this shard: scores (B, k) and ordinals (B, k), padded with -inf and -1.

        `nprobe`: lists to probe, ignored for Flat. `selector`: the ordinals that may be returned.
        """
        if self.family == "Flat":
            return search_flat(self._index, check_queries(queries_BD, self.dim), k, selector)
        if nprobe < 1:
            raise ValueError(f"nprobe must be at least 1 for {self.family}, got {nprobe}")
        queries_BD = check_queries(queries_BD, self.dim)
        assignment = assign_lists(self._index.quantizer, queries_BD, min(nprobe, self.nlist))
        return search_ivf(self._index, queries_BD, k, assignment, selector)

    @property
    def index(self) -> Any:
        """faiss's own, for who reads its memory."""
        return self._index

    def search_assigned(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        assignment: Assignment | None,
        selector: AllowedOrdinals | None,
    ) -> Ranked:
        """`search` with the centroids ranked already (None for Flat). Queries are not checked."""
        if assignment is None:
            return search_flat(self._index, queries_BD, k, selector)
        return search_ivf(self._index, queries_BD, k, assignment, selector)

    def best(
        self,
        query_BD: NDArray[np.float32],
        fetch: int,
        assignment: Assignment | None,
        allowed: AllowedOrdinals | None,
    ) -> Ranked:
        """The `fetch` best rows of one query (1, D), or all: scores (K,), ordinals (K,)."""
        if self.count == 0:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        scores_BK, ordinals_BK = self.search_assigned(
            query_BD, min(fetch, self.count), assignment, allowed
        )
        return unpadded(scores_BK[0], ordinals_BK[0])

    def vectors_of(self, ordinals: Ordinals) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Stored vectors: (found (N,), vectors (N, D) with zero rows where not found)."""
        return self._stored.get(np.asarray(ordinals, dtype=np.int64))

    def dots_of(
        self, ordinals: Ordinals, queries_QD: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Of stored vectors: (found (N,), inner products (N, Q) with zero rows where not found)."""
        return self._stored.dots(ordinals, queries_QD)

    @property
    def ordinals(self) -> Ordinals:
        """All ordinals of the shard, sorted."""
        return self._stored.ordinals

    def centroids(self) -> NDArray[np.float32]:
        """The centroids in this file: (nlist, D)."""
        centroids: NDArray[np.float32] = self._index.quantizer.reconstruct_n(0, self.nlist)
        return centroids

    @cached_property
    def _stored(self) -> StoredVectors:
        return StoredVectors.of_indexes([self._index], self.family, self.dim)


class Shards(Protocol):
    """The shards of one generation as a search sees them. `coarse` is None for Flat."""

    family: Family
    dim: int
    count: int
    nlist: int
    shard_count: int
    coarse: Any | None

    @property
    def ordinals(self) -> Ordinals:
        """All ordinals, sorted; also those of shards that do not answer."""
        ...

    @property
    def rows(self) -> OrdinalRows:
        """The row of each ordinal among `ordinals`."""
        ...

    @property
    def missing(self) -> Sequence[int]:
        """Numbers of the shards that did not answer, up to now, in this answer."""
        ...

    def for_answer(self) -> Shards:
        """The same shards for one answer: with a deadline and a `missing` of its own."""
        ...

    def assign(self, queries_BD: NDArray[np.float32], nprobe: int | None) -> Assignment | None:
        """The lists each query probes; None for Flat. `nprobe` above nlist means all."""
        ...

    def best_of_each(
        self,
        query_BD: NDArray[np.float32],
        fetch: int,
        assignment: Assignment | None,
        allowed: AllowedOrdinals | None,
    ) -> Iterable[Ranked]:
        """The `fetch` best rows, or all, of every shard that answers; one query, unpadded."""
        ...

    def vectors_of(self, ordinals: Ordinals) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Stored vectors: (found (N,), vectors (N, D) with zero rows where not found)."""
        ...

    def dots_of(
        self, ordinals: Ordinals, queries_QD: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Of stored vectors: (found (N,), inner products (N, Q) with zero rows where not found)."""
        ...

    def contains(self, ordinals: Ordinals) -> NDArray[np.bool_]:
        """For each ordinal (N,), whether some shard holds it."""
        ...


class ShardSet:
    """Shards of one generation that are open in this process. `coarse` is None for Flat."""

    missing: tuple[int, ...] = ()

    def __init__(self, manifest: Manifest, shards: list[Shard], coarse: Any | None) -> None:
        self.shards = shards
        self.shard_count = manifest.shard_count
        self.coarse = coarse
        self.family: Family = manifest.family
        self.dim = manifest.dim
        self.count = manifest.item_count
        self.nlist = manifest.nlist
        self.default_nprobe = manifest.nprobe

    @classmethod
    def open(
        cls, directory: Path, manifest: Manifest, numbers: Sequence[int] | None = None
    ) -> ShardSet:
        """Opens every shard the manifest names and checks that they belong together.

        `numbers`: of those only, in this order. Raises MissingArtifact, CorruptArtifact,
        ShardMismatch. Digests are `manifest.verify`'s.
        """
        wanted = range(manifest.shard_count) if numbers is None else numbers
        names = [shard_name(number) for number in wanted]
        shards = [Shard.open(directory / name, manifest.family) for name in names]
        coarse = None if manifest.family == "Flat" else read_coarse(directory / COARSE_NAME)
        for shard in shards:
            _expect(shard.path, "dimension", manifest.dim, shard.dim)
            _expect(shard.path, "nlist", manifest.nlist, shard.nlist)
        if numbers is None:
            _expect(directory, "item count", manifest.item_count, sum(s.count for s in shards))
        if coarse is not None:
            _check_centroids(directory / COARSE_NAME, coarse, manifest, shards)
        return cls(manifest, shards, coarse)

    def search_all(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        nprobe: int | None = None,
        selector: AllowedOrdinals | None = None,
    ) -> Ranked:
        """Top k of all shards: scores (B, k) and ordinals (B, k), padded with -inf and -1.

        `nprobe`: the manifest's when None. It knows no delta; `search.search` does.
        """
        queries_BD = check_queries(queries_BD, self.dim)
        assignment = self.assign(queries_BD, nprobe)
        parts = [
            shard.search_assigned(queries_BD, k, assignment, selector) for shard in self.shards
        ]
        return merge_top_k_batch(parts, k)

    def assign(self, queries_BD: NDArray[np.float32], nprobe: int | None) -> Assignment | None:
        """The lists each query probes; None for Flat. `nprobe` above nlist means all."""
        if self.coarse is None:
            return None
        wanted = self.default_nprobe if nprobe is None else nprobe
        if wanted < 1:
            raise ValueError(f"nprobe must be at least 1, got {nprobe}")
        return assign_lists(self.coarse, queries_BD, min(wanted, self.nlist))

    def for_answer(self) -> ShardSet:
        """Itself: what is in this process answers."""
        return self

    def best_of_each(
        self,
        query_BD: NDArray[np.float32],
        fetch: int,
        assignment: Assignment | None,
        allowed: AllowedOrdinals | None,
    ) -> Iterable[Ranked]:
        """The `fetch` best rows, or all, of every shard; one query, unpadded."""
        for shard in self.shards:
            yield shard.best(query_BD, fetch, assignment, allowed)

    def vectors_of(self, ordinals: Ordinals) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Stored vectors: (found (N,), vectors (N, D) with zero rows where not found)."""
        return self._stored.get(np.asarray(ordinals, dtype=np.int64))

    def dots_of(
        self, ordinals: Ordinals, queries_QD: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Of stored vectors: (found (N,), inner products (N, Q) with zero rows where not found)."""
        return self._stored.dots(ordinals, queries_QD)

    def contains(self, ordinals: Ordinals) -> NDArray[np.bool_]:
        """For each ordinal (N,), whether some shard holds it."""
        return self._stored.rows.has(ordinals)

    @property
    def ordinals(self) -> Ordinals:
        """All ordinals, sorted. Raises ShardMismatch when two shards hold the same one."""
        return self._stored.ordinals

    @property
    def rows(self) -> OrdinalRows:
        """The row of each ordinal among `ordinals`."""
        return self._stored.rows

    @cached_property
    def _stored(self) -> StoredVectors:
        """Of all shards together: one look-up and one copy for all that is asked."""
        indexes = [shard.index for shard in self.shards]
        stored = StoredVectors.of_indexes(indexes, self.family, self.dim)
        ordinals = stored.ordinals
        repeats = int(np.count_nonzero(ordinals[1:] == ordinals[:-1]))
        _expect(self.shards[0].path.parent, "ordinals held by two shards", 0, repeats)
        return stored


def check_queries(queries_BD: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Contiguous float32 (B, dim) and finite, or ValueError."""
    if queries_BD.dtype != np.float32 or queries_BD.ndim != 2 or queries_BD.shape[1] != dim:
        raise ValueError(
            f"queries must be float32 [B, {dim}], got {queries_BD.dtype} {list(queries_BD.shape)}"
        )
    if len(queries_BD) == 0 or not bool(np.isfinite(queries_BD).all()):
        raise ValueError("queries must be finite, and at least one")
    return np.ascontiguousarray(queries_BD)


def _check_centroids(path: Path, coarse: Any, manifest: Manifest, shards: list[Shard]) -> None:
    """Shards whose centroids differ would be probed in the wrong lists, and quietly miss items."""
    _expect(path, "dimension", manifest.dim, coarse.d)
    _expect(path, "nlist", manifest.nlist, coarse.ntotal)
    centroids = coarse.reconstruct_n(0, coarse.ntotal)
    for shard in shards:
        same = bool(np.array_equal(centroids, shard.centroids()))
        _expect(shard.path, "coarse quantizer equal to coarse.faiss", True, same)


def _expect(path: Path, what: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise ShardMismatch(path, what, expected=expected, actual=actual)
