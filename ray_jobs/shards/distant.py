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


@dataclass(frozen=True, slots=True)
class DotsQuery:
    """Inner products of the stored vectors of ordinals (N,) with queries (Q, D): 4 Q bytes an
    ordinal on the way back instead of 4 D."""

    ordinals: Ordinals
    queries_QD: NDArray[np.float32]


ShardQuery = BestQuery | VectorsQuery | DotsQuery

Reply = tuple[NDArray[Any], NDArray[Any]]
"""Of a BestQuery scores and ordinals (K,), else found (N,) and vectors (N, D) or products (N, Q).
"""

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
        if isinstance(query, DotsQuery):
            # Copies: what another process sent may not be written, and is another type to a kernel.
            return shard.dots_of(query.ordinals.copy(), query.queries_QD.copy())
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
        return self._of_stored(ordinals, VectorsQuery, self.dim)

    def dots_of(
        self, ordinals: Ordinals, queries_QD: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Of stored vectors: (found (N,), inner products (N, Q) with zero rows where not found)."""
        return self._of_stored(ordinals, lambda some: DotsQuery(some, queries_QD), len(queries_QD))

    def contains(self, ordinals: Ordinals) -> NDArray[np.bool_]:
        """For each ordinal (N,), whether some shard holds it."""
        return self._rows.has(ordinals)

    def _of_stored(
        self, ordinals: Ordinals, query_of: Callable[[Ordinals], ShardQuery], width: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """(found (N,), rows (N, width)) of what each shard says of those it holds."""
        ordinals = np.asarray(ordinals, dtype=np.int64)
        found = np.zeros(len(ordinals), dtype=np.bool_)
        rows_NW = np.zeros((len(ordinals), width), dtype=np.float32)
        held = np.flatnonzero(self.contains(ordinals))
        numbers = shard_of(ordinals[held], self.shard_count)
        places_of = {int(number): held[numbers == number] for number in np.unique(numbers)}
        queries = {number: query_of(ordinals[places]) for number, places in places_of.items()}
        for number, (here, rows) in self._asked(queries).items():
            found[places_of[number]] = here
            rows_NW[places_of[number]] = rows
        return found, rows_NW

    def _asked(self, queries: Mapping[int, ShardQuery]) -> dict[int, Reply]:
        """Replies in the order of shard numbers: which came first must not show in an answer."""
        assert self._wait is not None, "an answer asks its own: for_answer()"
        missing = self._wait.missing
        asked = {number: query for number, query in queries.items() if number not in missing}
        wait_s = self._wait.share_s()
        replies = self._ask(self._generation_id, asked, wait_s) if asked and wait_s > 0 else {}
        missing.update(asked.keys() - replies.keys())
        return {number: replies[number] for number in sorted(asked.keys() & replies.keys())}
