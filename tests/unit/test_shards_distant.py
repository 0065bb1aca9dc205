"""Shards in other processes: the same answer bit for bit, and an honest one where some are gone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ray_jobs.shards.delta import Delta, DeltaChange
from ray_jobs.shards.distant import DistantShards, HeldShards, Reply, ShardQuery
from ray_jobs.shards.errors import ShardMismatch
from ray_jobs.shards.manifest import Manifest
from ray_jobs.shards.placement import shard_of
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.search import live_dots_of, live_vectors_of, search
from tests.unit.shards_builder import brute_force, grid_vectors, pairs, write_generation

DIM, COUNT, SHARDS, DEPLOYMENTS = 6, 900, 4, 3
TIMEOUT_S = 1.0


@dataclass
class Deployments:
    """Three processes, as far as anyone can tell: what goes in and out is copied."""

    held: list[HeldShards]
    gone: set[int] = field(default_factory=set)
    waits_s: list[float] = field(default_factory=list)
    asked: list[set[int]] = field(default_factory=list)
    now_s: float = 0.0

    def ask(
        self, generation_id: str, queries: Mapping[int, ShardQuery], wait_s: float
    ) -> Mapping[int, Reply]:
        assert generation_id == "g1"
        self.waits_s.append(wait_s)
        self.asked.append(set(queries))
        sent = copy.deepcopy(dict(queries))
        replies: dict[int, Reply] = {}
        for number in sent:
            index = number % DEPLOYMENTS
            if index not in self.gone:
                replies.update(self.held[index].answer({number: sent[number]}))
        if self.gone & {number % DEPLOYMENTS for number in sent}:
            self.now_s += wait_s
        return copy.deepcopy(dict(reversed(replies.items())))


class Generation:
    def __init__(self, folder: Path, family: str) -> None:
        self.vectors = grid_vectors(np.random.default_rng(5), COUNT, DIM)
        self.ordinals = np.arange(COUNT, dtype=np.int64) * 2
        nlist = 0 if family == "Flat" else 12
        self.manifest: Manifest = write_generation(
            folder,
            self.vectors,
            self.ordinals,
            family=family,  # type: ignore[arg-type]
            nlist=nlist,
            nprobe=nlist and 3,
            shard_count=SHARDS,
        )
        self.here = ShardSet.open(folder, self.manifest)
        self.local = ShardSet.open(folder, self.manifest, numbers=())
        self.held = [
            HeldShards.open(folder, self.manifest, range(index, SHARDS, DEPLOYMENTS))
            for index in range(DEPLOYMENTS)
        ]

    def distant(self, gone: set[int] | None = None) -> tuple[DistantShards, Deployments]:
        deployments = Deployments(self.held, gone or set())
        shards = DistantShards(
            "g1",
            self.local,
            self.ordinals,
            deployments.ask,
            TIMEOUT_S,
            lambda: deployments.now_s,
        )
        return shards, deployments

    def delta(self, rng: np.random.Generator) -> Delta:
        """Some items deleted, some edited, some new."""
        span = 2 * COUNT
        deleted = rng.choice(self.ordinals, rng.integers(0, 60), replace=False)
        edited = rng.choice(self.ordinals, rng.integers(0, 60), replace=False)
        new = np.arange(span, span + rng.integers(0, 60))
        put = np.concatenate([edited, new])
        return Delta.empty(self.here, seal_at=40).apply(
            [
                *(DeltaChange(int(o), None) for o in deleted),
                *(
                    DeltaChange(int(o), v)
                    for o, v in zip(put, grid_vectors(rng, len(put), DIM), strict=True)
                ),
            ]
        )


@pytest.fixture(scope="module", params=["Flat", "IVF,SQfp16"])
def generation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generation:
    return Generation(tmp_path_factory.mktemp("generation"), request.param)


def drawn(
    rng: np.random.Generator, delta: Delta
) -> tuple[NDArray[np.float32], int, NDArray[np.bool_] | None, NDArray[np.int64]]:
    """A query, k, a mask of eligible ordinals (sometimes narrow, sometimes none), excluded ones."""
    span = delta.ordinal_span
    share = rng.choice([0.002, 0.1, 0.7, 1.0])
    eligible = None if share == 1.0 else np.asarray(rng.random(span) < share)
    excluded = np.unique(rng.integers(0, span, rng.integers(0, 200)))
    k = int(rng.choice([1, 7, 50, 400, 2_000]))
    return grid_vectors(rng, 1, DIM)[0], k, eligible, excluded


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_distant_shards_give_the_answer_of_shards_in_the_process_bit_for_bit(
    generation: Generation, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    delta = generation.delta(rng)
    query_D, k, eligible, excluded = drawn(rng, delta)
    shards, _ = generation.distant()
    answer = shards.for_answer()
    here = search(generation.here, delta, query_D, k, eligible=eligible, excluded=excluded)
    there = search(answer, delta, query_D, k, eligible=eligible, excluded=excluded)
    assert here[0].tobytes() == there[0].tobytes()
    assert here[1].tobytes() == there[1].tobytes()
    wanted = rng.integers(-1, delta.ordinal_span + 5, 50)
    ours, theirs = (live_vectors_of(base, delta, wanted) for base in (generation.here, answer))
    assert ours[0].tobytes() == theirs[0].tobytes()
    assert ours[1].tobytes() == theirs[1].tobytes()
    two_QD = grid_vectors(rng, 2, DIM)
    ours, theirs = (live_dots_of(base, delta, wanted, two_QD) for base in (generation.here, answer))
    assert ours[0].tobytes() == theirs[0].tobytes()
    assert ours[1].tobytes() == theirs[1].tobytes()
    assert answer.missing == ()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gone=st.sets(st.integers(0, DEPLOYMENTS - 1), min_size=1))
def test_with_shards_gone_the_answer_is_right_of_the_rest_and_says_so(
    generation: Generation, seed: int, gone: set[int]
) -> None:
    rng = np.random.default_rng(seed)
    delta = generation.delta(rng)
    query_D, k, eligible, excluded = drawn(rng, delta)
    whole = generation.local.nlist or None  # every list, so that brute force is the answer
    answer = generation.distant(gone)[0].for_answer()
    there = search(answer, delta, query_D, k, eligible=eligible, excluded=excluded, nprobe=whole)
    lost = {number for number in range(SHARDS) if number % DEPLOYMENTS in gone}
    assert set(answer.missing) <= lost
    in_base = ~np.isin(delta.live_ordinals(), np.concatenate([delta.head.ordinals, _sealed(delta)]))
    live = delta.live_ordinals()
    unreachable = in_base & np.isin(shard_of(live, SHARDS), list(lost))
    shown = live[~unreachable & ~np.isin(live, excluded)]
    if eligible is not None:
        shown = shown[eligible[shown]]
    _, vectors = live_vectors_of(generation.here, delta, shown)
    expected = brute_force(dict(zip(shown.tolist(), vectors, strict=True)), query_D, k)
    assert pairs(*there) == expected
    # A mark unless nothing of theirs was needed (a narrow filter asks for its own items alone).
    if eligible is None:
        assert set(answer.missing) == lost


def _sealed(delta: Delta) -> NDArray[np.int64]:
    return delta.sealed.ordinals[~np.isin(delta.sealed.ordinals, delta.dead)]


def test_a_shard_that_missed_is_not_asked_again_in_the_answer_and_the_deadline_is_kept(
    generation: Generation,
) -> None:
    shards, deployments = generation.distant({1})
    answer = shards.for_answer()
    delta = Delta.empty(generation.here)
    # k above what there is: every stage is tried.
    search(answer, delta, np.ones(DIM, np.float32), 2_000)
    assert deployments.asked[0] == {0, 1, 2, 3}
    assert all(asked == {0, 2, 3} for asked in deployments.asked[1:])
    assert len(deployments.asked) >= 1
    live_vectors_of(answer, delta, generation.ordinals)
    assert deployments.asked[-1] == {0, 2, 3}
    assert deployments.now_s <= TIMEOUT_S
    assert answer.missing == (1,)
    # The next answer asks all of them again.
    assert shards.missing == ()
    search(shards.for_answer(), delta, np.ones(DIM, np.float32), 5)
    assert deployments.asked[-1] == {0, 1, 2, 3}


def test_what_is_left_of_the_deadline_is_shared_out_so_that_later_stages_have_some(
    generation: Generation,
) -> None:
    shards, deployments = generation.distant({0})
    answer = shards.for_answer()
    for gone in ({0}, {0, 1}, {0, 1, 2}):
        deployments.gone = gone
        answer.vectors_of(generation.ordinals)
    assert deployments.waits_s == [0.5, 0.25, 0.125]
    assert answer.missing == (0, 1, 2, 3)


def test_a_process_that_does_not_hold_the_shard_asked_for_leaves_it_out(
    generation: Generation,
) -> None:
    shards, deployments = generation.distant()
    deployments.held = [generation.held[0]] * DEPLOYMENTS  # all hold 0 and 3
    answer = shards.for_answer()
    found, _ = answer.vectors_of(generation.ordinals)
    assert answer.missing == (1, 2)
    assert set(np.unique(shard_of(generation.ordinals[found], SHARDS))) == {0, 3}


def test_ordinals_that_the_manifest_does_not_count_are_refused(generation: Generation) -> None:
    with pytest.raises(ShardMismatch, match="item count"):
        DistantShards("g1", generation.local, generation.ordinals[1:], Deployments([]).ask, 1.0)
