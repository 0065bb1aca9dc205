"""The few calls to faiss that the shelf makes, with numpy types on both sides.

faiss's own wrappers refuse parameters for `search_preassigned`, hide `IndexIDMap`'s inner type and
hand out raw pointers; all of that stays in this file. B = queries, K = results, P = probed lists,
N = vectors, D = dimension.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import faiss as faiss_typed
import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.merge import PAD_SCORE, Ordinals, Ranked
from ray_jobs.shards.ordinal_rows import OrdinalRows
from ray_jobs.shards.placement import Family
from ray_jobs.shards.stored_dots import stored_dots

# faiss ships stubs that contradict its own wrappers (IDSelectorBitmap, SearchParameters).
faiss: Any = faiss_typed

# faiss 1.15.1 ranks a batch with B x D >= 128,000 through BLAS, whose sums differ in the last bits
# from those of one query (`distance_compute_blas_threshold`, pull request 5022; 5109 would lower
# it). 16 stays below up to D = 7,999 and keeps a batch equal to its queries one by one.
QUERY_BATCH = 16


@dataclass(frozen=True, slots=True)
class Assignment:
    """The lists each query probes: the coarse quantizer ranks them once for all shards."""

    lists_BP: NDArray[np.int64]
    scores_BP: NDArray[np.float32]


class AllowedOrdinals:
    """A bitmap over ordinals: those a search may return. Ordinals beyond its end are not allowed.

    Immutable; shared by all shards of a query.
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self._mask = mask

    @classmethod
    def from_bits(cls, bits: NDArray[np.uint8]) -> AllowedOrdinals:
        """The bitmap that `bits` were taken of; ordinals in the rest of the last byte are not."""
        return cls(np.unpackbits(bits, bitorder="little").astype(np.bool_))

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """Bit o % 8 of byte o // 8 is ordinal o."""
        return np.packbits(self._mask, bitorder="little")

    @cached_property
    def faiss_selector(self) -> Any:
        return faiss.IDSelectorBitmap(self.bits)  # faiss keeps a reference to the bits

    def admits(self, ordinals: Ordinals) -> NDArray[np.bool_]:
        """For each ordinal (N,), whether it is allowed."""
        return mask_at(self._mask, ordinals)


def mask_at(mask: NDArray[np.bool_], ordinals: Ordinals) -> NDArray[np.bool_]:
    """mask[ordinal] for each, False beyond the mask's end (and for -1)."""
    inside = (ordinals >= 0) & (ordinals < len(mask))
    admitted = np.zeros(len(ordinals), dtype=np.bool_)
    admitted[inside] = mask[ordinals[inside]]
    return admitted


class ThreadsFor:
    """One OpenMP thread while a single query is searched; the caller's number for a batch.

    A query is not split between threads, yet faiss opens a team for it and waits at its barriers:
    on 2 busy cores the same search took 34 ms with two threads and 0.15 ms with one. With two,
    one query over 20,000 vectors also goes through BLAS and differs from a batch. It has to be
    set here, because OpenMP keeps the number per thread: what a process sets at its entry does not
    reach its executor's threads. Costs under 1 us.
    """

    __slots__ = ("_before",)

    def __init__(self, queries: int) -> None:
        self._before = 1 if queries > 1 else int(faiss.omp_get_max_threads())

    def __enter__(self) -> None:
        if self._before > 1:
            faiss.omp_set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        if self._before > 1:
            faiss.omp_set_num_threads(self._before)


def assign_lists(coarse: Any, queries_BD: NDArray[np.float32], nprobe: int) -> Assignment:
    """Ranks the centroids of `coarse` for each query."""
    with ThreadsFor(len(queries_BD)):
        if len(queries_BD) <= QUERY_BATCH:
            scores_BP = np.empty((len(queries_BD), nprobe), np.float32)
            lists_BP = np.empty((len(queries_BD), nprobe), np.int64)
            # The C call, as in `search_ivf`.
            coarse.search_c(
                len(queries_BD),
                faiss.swig_ptr(queries_BD),
                nprobe,
                faiss.swig_ptr(scores_BP),
                faiss.swig_ptr(lists_BP),
            )
            return Assignment(lists_BP, scores_BP)
        parts = [
            coarse.search(queries_BD[start : start + QUERY_BATCH], nprobe)
            for start in range(0, len(queries_BD), QUERY_BATCH)
        ]
    scores_BP = np.concatenate([part[0] for part in parts])
    return Assignment(np.concatenate([part[1] for part in parts]), scores_BP)


def search_ivf(
    index: Any,
    queries_BD: NDArray[np.float32],
    k: int,
    assignment: Assignment,
    allowed: AllowedOrdinals | None,
) -> Ranked:
    """Top k of the assigned lists: (B, k), (B, k), padded with -inf and -1."""
    rows = len(queries_BD)
    nprobe = assignment.lists_BP.shape[1]
    if allowed is None:
        params = _probing(nprobe)
    else:
        params = faiss.SearchParametersIVF(nprobe=nprobe, sel=allowed.faiss_selector)
    scores_BK = np.empty((rows, k), dtype=np.float32)
    ordinals_BK = np.empty((rows, k), dtype=np.int64)
    lists_BP = np.ascontiguousarray(assignment.lists_BP)
    list_scores_BP = np.ascontiguousarray(assignment.scores_BP)
    with ThreadsFor(rows):
        # The Python wrapper asserts `params is None`; the C call takes them, and only pointers:
        # each array has a name here so that it outlives the call.
        index.search_preassigned_c(
            rows,
            faiss.swig_ptr(queries_BD),
            k,
            faiss.swig_ptr(lists_BP),
            faiss.swig_ptr(list_scores_BP),
            faiss.swig_ptr(scores_BK),
            faiss.swig_ptr(ordinals_BK),
            False,
            params,
        )
    if rows > 1 or ordinals_BK[0, -1] < 0:  # faiss pads at the end of a row
        scores_BK[ordinals_BK < 0] = PAD_SCORE
    return scores_BK, ordinals_BK


@lru_cache(maxsize=64)
def _probing(nprobe: int) -> Any:
    """Parameters that a search only reads, so threads may share them; 3 us to make."""
    return faiss.SearchParametersIVF(nprobe=nprobe)


def search_flat(
    index: Any, queries_BD: NDArray[np.float32], k: int, allowed: AllowedOrdinals | None
) -> Ranked:
    """Top k of all vectors: (B, k), (B, k), padded with -inf and -1."""
    params = None if allowed is None else faiss.SearchParameters(sel=allowed.faiss_selector)
    with ThreadsFor(len(queries_BD)):
        parts = [
            index.search(queries_BD[start : start + QUERY_BATCH], k, params=params)
            for start in range(0, len(queries_BD), QUERY_BATCH)
        ]
    scores_BK = np.concatenate([part[0] for part in parts])
    ordinals_BK = np.concatenate([part[1] for part in parts])
    scores_BK[ordinals_BK < 0] = PAD_SCORE
    return scores_BK, ordinals_BK


def new_ivf(coarse: Any) -> Any:
    """An empty IVF,SQfp16 over `coarse` (copied). Residuals are off: a code is the vector in fp16.

    So a vector has one code wherever it is stored, and can be read back without its centroid.
    """
    quantizer = faiss.clone_index(coarse)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer,
        coarse.d,
        coarse.ntotal,
        faiss.ScalarQuantizer.QT_fp16,
        faiss.METRIC_INNER_PRODUCT,
        False,
    )
    index.train(coarse.reconstruct_n(0, coarse.ntotal))  # fp16 learns nothing; sets is_trained
    return index


def gpus() -> int:
    """That faiss sees: none with faiss-cpu, whatever the machine has."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def add_to_ivf(
    index: Any, vectors_ND: NDArray[np.float32], ordinals_N: Ordinals, on_gpu: bool
) -> None:
    """Append vectors: which list each belongs to is found on the GPU or here, and what is written
    is the same."""
    quantizer = index.quantizer
    if on_gpu:
        quantizer = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, quantizer)
    lists_N = np.ascontiguousarray(quantizer.search(vectors_ND, 1)[1][:, 0])
    index.add_core(  # the C call: it takes pointers, and each array has a name here
        len(vectors_ND),
        faiss.swig_ptr(vectors_ND),
        faiss.swig_ptr(ordinals_N),
        faiss.swig_ptr(lists_N),
    )


def nearest_lists(coarse: Any, vectors_ND: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The list (N,) that each vector belongs to."""
    if not len(vectors_ND):
        return np.empty(0, np.int64)
    vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
    lists_N: NDArray[np.int64] = coarse.search(vectors_ND, 1)[1][:, 0]
    return lists_N


def new_flat(dim: int) -> Any:
    """An empty exact index that keeps our own ids."""
    return faiss.IndexIDMap(faiss.IndexFlatIP(dim))


def stored_precision(family: Family, vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors as the family stores them, in float32: shard and delta score an item alike."""
    if family == "Flat":
        return vectors_ND
    return vectors_ND.astype(np.float16).astype(np.float32)


def score_rows(
    vectors_ND: NDArray[np.float32], query_D: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Inner product of each row with the query: (N,).

    One dot product a row, and not `vectors_ND @ query_D`: from about 4,000 rows BLAS opens a team
    of threads (12 ms on 2 busy cores against 0.06), and a row's last bits depend on its neighbours.
    """
    return np.asarray(np.vecdot(vectors_ND, query_D), dtype=np.float32)


class StoredVectors:
    """Where each ordinal's vector lies in one or several indexes or in an array, in their own
    memory; 16 bytes a vector, and four an ordinal.

    A list is asked for some hundred vectors: they are copied by one call of numpy over addresses,
    for a loop over rows in Python took 0.3 ms of it. Holds whose memory it is, so that what the
    addresses name stays valid: an index that is added to afterwards may not be used any more.
    """

    def __init__(
        self,
        parts: Iterable[tuple[Ordinals, int]],
        dtype: type[np.floating[Any]],
        dim: int,
        of: Any,
    ) -> None:
        """`parts`: the ordinals of each run of vectors, and the address of its first. `of`: whose
        memory it is."""
        self._of = of
        self.dim = dim
        self._dtype = np.dtype(dtype)
        parts = list(parts)
        width = dim * self._dtype.itemsize
        ids = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
        addresses = np.concatenate(
            [
                np.empty(0, np.int64),
                *(
                    address + width * np.arange(len(part), dtype=np.int64)
                    for part, address in parts
                ),
            ]
        )
        order = np.argsort(ids, kind="stable")
        self.ordinals: Ordinals = ids[order].astype(np.int64)
        self.ordinals.setflags(write=False)
        self.rows = OrdinalRows(self.ordinals)
        self._base = int(addresses.min()) if len(addresses) else 0
        self._places = addresses[order] - self._base
        self._width = width
        self._memory = _memory_from(self._base, int(self._places.max(initial=-width)) + width)

    @classmethod
    def of_indexes(cls, indexes: Sequence[Any], family: Family, dim: int) -> StoredVectors:
        """Of these indexes of faiss together."""
        parts = (part for index in indexes for part in _parts_of(index, family))
        return cls(parts, np.float32 if family == "Flat" else np.float16, dim, tuple(indexes))

    @classmethod
    def of_rows(cls, ordinals_N: Ordinals, codes_ND: NDArray[np.float16]) -> StoredVectors:
        """Of the rows of an array."""
        assert codes_ND.flags.c_contiguous, codes_ND.strides
        parts = [(ordinals_N, codes_ND.ctypes.data)] if len(codes_ND) else []
        return cls(parts, np.float16, codes_ND.shape[1], codes_ND)

    @cached_property
    def _pairs(self) -> NDArray[np.uint16] | None:
        """The memory by two bytes, as a kernel reads it; None where some vectors begin at an even
        address and some at an odd one."""
        if not len(self._memory) or (self._places & 1).any():
            return None
        first = np.ctypeslib.as_array((ctypes.c_uint16 * 1).from_address(self._base))
        shape = (len(self._memory) // 2,)
        return np.lib.stride_tricks.as_strided(first, shape, (2,), writeable=False)

    @cached_property
    def _from_each(self) -> NDArray[np.uint8]:
        """The bytes of a vector from each byte of the memory on."""
        shape = (len(self._memory) - self._width + 1, self._width)
        return np.lib.stride_tricks.as_strided(self._memory, shape, (1, 1), writeable=False)

    def get(self, ordinals: Ordinals) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """(found (N,), vectors (N, D), zero rows where not found)."""
        rows = self.rows.of(ordinals)
        found = rows >= 0
        if len(rows) and bool(found.all()):
            return found, self._read(rows)
        vectors_ND = np.zeros((len(ordinals), self.dim), dtype=np.float32)
        vectors_ND[found] = self._read(rows[found])
        return found, vectors_ND

    def dots(
        self, ordinals: Ordinals, queries_QD: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """(found (N,), inner products (N, Q), zero rows where not found)."""
        assert queries_QD.shape[1] == self.dim, queries_QD.shape
        if self._pairs is None:
            found, vectors_ND = self.get(ordinals)
            return found, np.vecdot(vectors_ND[:, None], queries_QD[None])
        found, dots_NQ, _ = stored_dots(
            *(self._pairs, self._places, self._width == 2 * self.dim),
            *(self.rows.table_S, self.ordinals, ordinals, queries_QD),
        )
        return found, dots_NQ

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if not len(rows):
            return np.empty((0, self.dim), np.float32)
        codes = self._from_each[self._places[rows]]
        vectors: NDArray[np.float32] = codes.view(self._dtype).astype(np.float32, copy=False)
        return vectors


def _memory_from(base: int, length: int) -> NDArray[np.uint8]:
    """The `length` bytes from address `base` on, read only. Between the lists of an index there may
    be what is not its own: only what `places` names is read."""
    if not length:
        return np.empty(0, np.uint8)
    first = np.ctypeslib.as_array((ctypes.c_uint8 * 1).from_address(base))
    return np.lib.stride_tricks.as_strided(first, (length,), (1,), writeable=False)


def _parts_of(index: Any, family: Family) -> Iterator[tuple[Ordinals, int]]:
    """Ordinals (copied) of each run of vectors, and the address of its first."""
    if index.ntotal == 0:
        return
    if family == "Flat":
        flat = faiss.downcast_index(index.index)
        yield faiss.vector_to_array(index.id_map), int(flat.get_xb())
        return
    for number in range(index.nlist):
        size = index.invlists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
            yield ids.copy(), int(index.invlists.get_codes(number))
