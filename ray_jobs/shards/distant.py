"""A generation's shards that are open in other processes: same answers, or a mark for what is gone.

    DistantShards   in the process that answers: the coarse quantizer, and a way to ask the others
    HeldShards      in a process that holds some of the shards: answers what is asked of them

The way between them is the caller's (`AskShards`); nothing here knows Ray. An ask names the
generation, so one answer is of one generation, and the lists to probe, which are ranked once for
all shards. So a shard does for a distant caller exactly what it does in its own process.

Within one answer (`for_answer`) all asks together have one deadline, and a shard that missed one is
not asked again: every stage of a search sees the same shards, or fewer.

N = ordinals asked for, D = dimension.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.errors import ShardMismatch
from ray_jobs.shards.faiss_index import AllowedOrdinals, Assignment
from ray_jobs.shards.manifest import Manifest
from ray_jobs.shards.merge import Ordinals, Ranked
from ray_jobs.shards.ordinal_rows import OrdinalRows
from ray_jobs.shards.placement import Family, shard_of
from ray_jobs.shards.reader import Shard, ShardSet


@dataclass(frozen=True, slots=True)
class BestQuery:
    """The `fetch` best rows of a query (1, D). `allowed_bits`: `AllowedOrdinals.bits`."""

    query_BD: NDArray[np.float32]
    fetch: int
    assignment: Assignment | None
    allowed_bits: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class VectorsQuery:
    """The stored vectors of ordinals (N,)."""

    ordinals: Ordinals


ShardQuery = BestQuery | VectorsQuery

Reply = tuple[NDArray[Any], NDArray[Any]]
"""Of a BestQuery scores and ordinals (K,), of a VectorsQuery found (N,) and vectors (N, D)."""

AskShards = Callable[[str, Mapping[int, ShardQuery], float], Mapping[int, Reply]]
"""(generation id, shard number -> query, seconds to wait) -> replies of those that answered."""


@dataclass(frozen=True)
class HeldShards:
    """Shards of one generation by number, open in this process."""

    shards: Mapping[int, Shard]

    @classmethod
    def open(cls, directory: Path, manifest: Manifest, numbers: Iterable[int]) -> HeldShards:
        """Raises as `ShardSet.open` does. Digests are `manifest.verify`'s."""
        wanted = list(numbers)
        opened = ShardSet.open(directory, manifest, wanted)
        return cls(dict(zip(wanted, opened.shards, strict=True)))

    def answer(self, queries: Mapping[int, ShardQuery]) -> dict[int, Reply]:
        """Replies by shard number; none of a shard that is not held here."""
        return {
            number: self._answer(self.shards[number], query)
            for number, query in queries.items()
            if number in self.shards
        }

    @staticmethod
    def _answer(shard: Shard, query: ShardQuery) -> Reply:
        if isinstance(query, VectorsQuery):
            return shard.vectors_of(query.ordinals)
        bits = query.allowed_bits
        allowed = None if bits is None else AllowedOrdinals.from_bits(bits)
        return shard.best(query.query_BD, query.fetch, query.assignment, allowed)


@dataclass
class _Wait:
    """How long one answer still waits for shards; the clock starts with its first ask."""

    seconds: float
    clock: Callable[[], float]
    missing: set[int] = field(default_factory=set)
    _until_s: float | None = None

    def share_s(self) -> float:
        """Half of what is left: after a shard that never answered the others are asked again."""
        now_s = self.clock()
        if self._until_s is None:
            self._until_s = now_s + self.seconds
        return max(0.0, self._until_s - now_s) / 2


class DistantShards:
    """`reader.Shards` whose shards are elsewhere.

    Args:
        local: no shard, but what the manifest and coarse.faiss say.
        ordinals: of all shards together, sorted.
        timeout_s: what one answer waits for shards, all its asks together.

    Raises:
        ShardMismatch: the manifest counts other items.
    """

    def __init__(
        self,
        generation_id: str,
        local: ShardSet,
        ordinals: Ordinals,
        ask: AskShards,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if len(ordinals) != local.count:
            raise ShardMismatch(
                Path(generation_id), "item count", expected=local.count, actual=len(ordinals)
            )
        self._generation_id = generation_id
        self._local = local
        self._ordinals = ordinals
        self._rows = OrdinalRows(ordinals)
        self._ask = ask
        self._timeout_s = timeout_s
        self._clock = clock
        self._wait: _Wait | None = None
        self.family: Family = local.family
        self.dim = local.dim
        self.count = local.count
        self.nlist = local.nlist
        self.shard_count = local.shard_count
        self.coarse = local.coarse

    @property
    def ordinals(self) -> Ordinals:
        """All ordinals, sorted; also those of shards that do not answer."""
        return self._ordinals

    @property
    def rows(self) -> OrdinalRows:
        """The row of each ordinal among `ordinals`."""
        return self._rows

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the shards that did not answer, up to now, in this answer."""
        return () if self._wait is None else tuple(sorted(self._wait.missing))

    def for_answer(self) -> DistantShards:
        """The same shards, all of them to be asked, with the whole of `timeout_s` left."""
        for_this = copy.copy(self)
        for_this._wait = _Wait(self._timeout_s, self._clock)
        return for_this

    def assign(self, queries_BD: NDArray[np.float32], nprobe: int | None) -> Assignment | None:
        """The lists each query probes; None for Flat. `nprobe` above nlist means all."""
        return self._local.assign(queries_BD, nprobe)

    def best_of_each(
        self,
        query_BD: NDArray[np.float32],
        fetch: int,
        assignment: Assignment | None,
        allowed: AllowedOrdinals | None,
    ) -> Iterable[Ranked]:
        """The `fetch` best rows, or all, of every shard that answers; one query, unpadded."""
        query = BestQuery(query_BD, fetch, assignment, None if allowed is None else allowed.bits)
        return self._asked(dict.fromkeys(range(self.shard_count), query)).values()

    def vectors_of(self, ordinals: Ordinals) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Stored vectors: (found (N,), vectors (N, D)); not found is also what does not answer."""
        ordinals = np.asarray(ordinals, dtype=np.int64)
        found = np.zeros(len(ordinals), dtype=np.bool_)
        vectors_ND = np.zeros((len(ordinals), self.dim), dtype=np.float32)
        rows = np.flatnonzero(self.contains(ordinals))
        numbers = shard_of(ordinals[rows], self.shard_count)
        rows_of = {int(number): rows[numbers == number] for number in np.unique(numbers)}
        queries = {number: VectorsQuery(ordinals[rows]) for number, rows in rows_of.items()}
        for number, (here, vectors) in self._asked(queries).items():
            found[rows_of[number]] = here
            vectors_ND[rows_of[number]] = vectors
        return found, vectors_ND

    def dots_of(
        self, ordinals: Ordinals, queries_QD: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Of stored vectors: (found (N,), inner products (N, Q) with zero rows where not found)."""
        found, vectors_ND = self.vectors_of(ordinals)
        return found, np.vecdot(vectors_ND[:, None], queries_QD[None])

    def contains(self, ordinals: Ordinals) -> NDArray[np.bool_]:
        """For each ordinal (N,), whether some shard holds it."""
        return self._rows.has(ordinals)

    def _asked(self, queries: Mapping[int, ShardQuery]) -> dict[int, Reply]:
        """Replies in the order of shard numbers: which came first must not show in an answer."""
        assert self._wait is not None, "an answer asks its own: for_answer()"
        missing = self._wait.missing
        asked = {number: query for number, query in queries.items() if number not in missing}
        wait_s = self._wait.share_s()
        replies = self._ask(self._generation_id, asked, wait_s) if asked and wait_s > 0 else {}
        missing.update(asked.keys() - replies.keys())
        return {number: replies[number] for number in sorted(asked.keys() & replies.keys())}
