"""One random walk of drill `deltas`: a store, a loaded generation, and the oracle beside them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from infra.drills.catalog import TEXT_DIM, TOPICS, item_put
from infra.drills.figures import Figures
from infra.drills.generation import make_generation
from infra.drills.oracle import Oracle
from ray_jobs.shards.placement import FamilyChoice
from ray_jobs.shards.search import search
from serve.loaded_generation import CatalogView, LoadedGeneration
from sql import catalog, generations
from sql.engine import read_snapshot

DIM = 32
CLUSTERS = 256
SPREAD = 0.6
"""Length of the noise around a cluster's centre, which has length 1."""
PUT_AT_ONCE = 500
MAX_BATCH = 12
CHECKPOINTS = 6
RESTARTS = 20
RECALL_K = 20
RESTART_QUERIES = 20
TOLERANCE = 2e-3
"""Of a score: IVF shards hold fp16."""
KS = (1, 5, 20, 100)


@dataclass
class Walk:
    """`seed`: of all that is drawn. Counts what was broken into `figures`."""

    engine: Engine
    root: Path
    figures: Figures
    seed: tuple[int, int]
    choice: FamilyChoice | None
    recall_queries: int
    rng: np.random.Generator = field(init=False)
    ids: dict[str, int] = field(default_factory=dict)
    """Live items: id -> ordinal."""
    gone: list[str] = field(default_factory=list)
    """Deleted ids, which may be put again."""
    oracle: Oracle = field(init=False)
    generation: LoadedGeneration = field(init=False)
    weights: int = 0
    made: int = 0
    named: int = 0
    hits: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    """Of the searched index, of a rebuilt one, and how many there were to find."""
    gaps: list[float] = field(default_factory=list)
    restart_lists: int = 0
    restart_lists_other: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        centres = self.rng.normal(size=(CLUSTERS, TEXT_DIM)).astype(np.float32)
        self._centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)

    @property
    def count(self) -> int:
        """Live items."""
        return len(self.ids)

    def fill(self, items: int) -> None:
        """A catalog of `items`, and the first generation of it."""
        first: list[tuple[list[int], NDArray[np.float32], list[int]]] = []
        while self.count < items:
            first.append(
                self._put([self._new_id() for _ in range(PUT_AT_ONCE)][: items - self.count])
            )
        self.generation = self._made()
        self.oracle = Oracle(TEXT_DIM, self.generation.encoder)
        for put in first:
            self.oracle.put(*put)

    def run(self, ops: int, progress: Callable[[int], object]) -> None:
        """`ops` operations, with checkpoints and restarts at even distances."""
        done, checkpoint, restart = 0, 1, 1
        held: tuple[CatalogView, NDArray[np.float32], list[int]] | None = None
        while done < ops:
            if self.rng.random() < 0.82:
                self.search(self._query())
                step = 1
            else:
                step = self.change(int(self.rng.integers(1, MAX_BATCH)))
            done += step
            progress(step)
            if done * RESTARTS >= restart * ops:
                restart += 1
                self._restart()
                self._check_held(held)
                query = self._query()
                held = (self.generation.view, query, self._list(self.generation, query))
            if done * CHECKPOINTS >= checkpoint * ops:
                self._checkpoint(switch=checkpoint % 2 == 0)
                checkpoint += 1
                held = None

    def change(self, at_most: int) -> int:
        """A batch of puts (new, edited, re-created) or one delete; returns how many changes."""
        if self.rng.random() < 0.45 and self.count > 10:
            for item_id in self._some_ids(1 + at_most // 2):
                self.delete(item_id)
            changes = 1 + at_most // 2
        else:
            chosen: dict[str, None] = {}
            for _ in range(at_most):
                chance = self.rng.random()
                if chance < 0.4:
                    chosen[self._some_ids(1)[0]] = None
                elif chance < 0.7 and self.gone:
                    chosen[self.gone.pop(int(self.rng.integers(len(self.gone))))] = None
                else:
                    chosen[self._new_id()] = None
            self.oracle.put(*self._put(list(chosen)))
            changes = len(chosen)
        self.generation.catch_up(self.engine)
        self.figures.acked += changes
        return changes

    def delete(self, item_id: str) -> None:
        """One item, in the store and in the oracle."""
        result = catalog.delete_item(self.engine, item_id, None, at_ms=1)
        if result.outcome != "deleted":
            self.figures.lost += 1
            self.figures.tell(f"delete of {item_id}: {result}")
        self.forget(item_id)

    def forget(self, item_id: str) -> None:
        """It was deleted."""
        self.oracle.delete(self.ids.pop(item_id))
        self.gone.append(item_id)

    def search(self, query_D: NDArray[np.float32]) -> None:
        """One list, against the oracle."""
        k = int(self.rng.choice(KS))
        group = int(self.rng.integers(len(TOPICS))) if self.rng.random() < 0.3 else None
        span = len(self.oracle.alive)
        excluded = np.unique(self.rng.integers(span, size=int(self.rng.integers(0, 40))))
        view = self.generation.view
        eligible = None if group is None else view.items.matching(TOPICS[group], {})
        scores, found = search(
            self.generation.shards, view.delta, query_D, k, eligible=eligible, excluded=excluded
        )
        may_show = self.oracle.may_show(group, excluded)
        wanted = min(k, int(np.count_nonzero(may_show)))
        what = f"k={k} group={group}: {found[:5].tolist()} ..."
        if len(found) != wanted:
            self.figures.tell(f"{len(found)} items instead of {wanted}: {what}")
        if len(np.unique(found)) != len(found):
            self.figures.duplicated += 1
            self.figures.tell(f"an item twice: {what}")
        if not bool(may_show[found].all()):
            self.figures.resurrected += 1
            self.figures.tell(f"an item that may not be shown: {what}")
        exact = self.oracle.vectors_ND[found] @ query_D
        difference = float(np.abs(exact - scores).max(initial=0.0))
        self.figures.parity_max_abs_diff = max(self.figures.parity_max_abs_diff or 0.0, difference)
        if difference > TOLERANCE or bool((np.diff(scores) > 0).any()):
            self.figures.tell(f"scores off by {difference:.4f}, or out of order: {what}")
        if self.generation.shards.coarse is None:
            _, best = self.oracle.best(query_D, k, may_show)
            if len(best) == len(exact) and float(np.abs(best - exact).max(initial=0.0)) > TOLERANCE:
                self.figures.tell(f"a Flat search that is not exact: {what}")

    def report(self, phase: str) -> None:
        """Recall and restarts of this walk into the figures."""
        searched, rebuilt, total = (int(n) for n in self.hits)
        gap = (searched - rebuilt) / max(1, total)
        known = self.figures.recall_gap
        self.figures.recall_gap = gap if known is None else min(gap, known)
        self.figures.more[f"{phase}_recall@{RECALL_K}"] = round(searched / max(1, total), 5)
        self.figures.more[f"{phase}_recall@{RECALL_K}_rebuilt"] = round(rebuilt / max(1, total), 5)
        self.figures.more[f"{phase}_recall_gap_worst_checkpoint"] = round(min(self.gaps), 5)
        self.figures.more[f"{phase}_restart_lists"] = self.restart_lists
        self.figures.more[f"{phase}_restart_lists_other"] = self.restart_lists_other
        if gap < -0.002:
            self.figures.tell(f"{phase}: recall is {gap:.4f} against a rebuilt index")

    def _checkpoint(self, *, switch: bool) -> None:
        """Recall beside a rebuilt index; then, if so asked, a switch to other weights."""
        rebuilt = self._made()
        nothing = np.zeros(0, np.int64)
        before = self.hits.copy()
        for _ in range(self.recall_queries):
            query_D = self._query()
            best, _ = self.oracle.best(query_D, RECALL_K, self.oracle.may_show(None, nothing))
            lists = [self._list(generation, query_D) for generation in (self.generation, rebuilt)]
            self.hits += [*(len(np.intersect1d(best, found)) for found in lists), len(best)]
        searched, again, total = (self.hits - before).tolist()
        self.gaps.append((searched - again) / max(1, total))
        if switch:
            self.weights += 1
            self.generation = self._made()
            self.oracle.project(self.generation.encoder)

    def _restart(self) -> None:
        """A replica that starts now: the files and the log are all it has."""
        fresh = LoadedGeneration.open(self.root, self.generation.generation_id)
        fresh.catch_up(self.engine)
        nlist = self.generation.shards.nlist or None
        for _ in range(RESTART_QUERIES):
            query_D = self._query()
            if self._list(fresh, query_D, nlist) != self._list(self.generation, query_D, nlist):
                self.figures.tell("a restarted replica does not hold the same items")
            self.restart_lists += 1
            same = self._list(fresh, query_D) == self._list(self.generation, query_D)
            self.restart_lists_other += not same
        self.generation = fresh

    def _check_held(self, held: tuple[CatalogView, NDArray[np.float32], list[int]] | None) -> None:
        """A view that was taken long ago still answers as it did: a request keeps what it began
        with."""
        if held is None:
            return
        view, query_D, listed = held
        _, found = search(self.generation.shards, view.delta, query_D, RECALL_K)
        if found.tolist() != listed:
            self.figures.tell("an older view of the catalog changed under a request")

    @staticmethod
    def _list(
        generation: LoadedGeneration, query_D: NDArray[np.float32], nprobe: int | None = None
    ) -> list[int]:
        delta = generation.view.delta
        _, found = search(generation.shards, delta, query_D, RECALL_K, nprobe=nprobe)
        return [int(ordinal) for ordinal in found]

    def _made(self) -> LoadedGeneration:
        """A generation of the present catalog under the present weights, published and loaded."""
        name = f"g{self.made:04d}"
        self.made += 1
        make_generation(
            self.engine,
            self.root,
            name,
            seed=self.seed[0] + self.weights,
            at_ms=self.made,
            dim=DIM,
            choice=self.choice,
        )
        with read_snapshot(self.engine) as conn:
            live = generations.read_live(conn)
        generations.stage(self.engine, name)
        generations.flip(
            self.engine,
            name,
            expected_flip=live.flip if live else 0,
            who="drill",
            why="deltas",
            hold=False,
            at_ms=self.made,
        )
        return LoadedGeneration.open(self.root, name)

    def _put(self, item_ids: list[str]) -> tuple[list[int], NDArray[np.float32], list[int]]:
        """Put them with fresh texts; what the oracle must be told."""
        vectors = self._texts(len(item_ids))
        groups = self.rng.integers(len(TOPICS), size=len(item_ids)).tolist()
        puts = []
        for item_id, vector_E, group in zip(item_ids, vectors, groups, strict=True):
            self.named += 1
            title = f"item text {self.named}"
            puts.append(item_put(item_id, title, vector_E, TOPICS[group]))
        ordinals = []
        for put, result in zip(puts, catalog.put_items(self.engine, puts, 1), strict=True):
            if result.outcome not in ("created", "updated"):
                self.figures.lost += 1
                self.figures.tell(f"put of {put.item_id}: {result}")
            before = self.ids.get(put.item_id)
            if before is not None and before != result.ordinal:
                self.figures.tell(f"an edit gave {put.item_id} another ordinal: {result}")
            self.ids[put.item_id] = result.ordinal
            ordinals.append(result.ordinal)
        return ordinals, vectors, groups

    def _texts(self, count: int) -> NDArray[np.float32]:
        """Unit text vectors (count, E), around the centres of the clusters."""
        centres = self._centres[self.rng.integers(CLUSTERS, size=count)]
        noise = self.rng.normal(size=centres.shape).astype(np.float32)
        rows = centres + SPREAD * noise / np.sqrt(np.float32(TEXT_DIM))
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def _query(self) -> NDArray[np.float32]:
        return np.asarray(self.generation.encoder.text_vectors(self._texts(1))[0], np.float32)

    def _some_ids(self, count: int) -> list[str]:
        """Distinct live ids, drawn."""
        chosen = self.rng.choice(len(self.ids), size=count, replace=False)
        everything = list(self.ids)
        return [everything[int(n)] for n in chosen]

    def _new_id(self) -> str:
        self.named += 1
        return f"item{self.named}"
