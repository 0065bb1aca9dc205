"""The promises of `search`, against brute force over base - masked + delta, for Flat and IVF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ray_jobs.shards import search as search_module
from ray_jobs.shards.delta import Delta, DeltaChange
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.search import live_vectors_of, search
from tests.unit.shards_builder import brute_force, grid_vectors, pairs, write_generation

DIM = 6
BASE_COUNT = 120
NLIST = 12
SPAN = 400


@dataclass(frozen=True)
class Fixed:
    """A base on disk and what it holds."""

    base: ShardSet
    live: dict[int, NDArray[np.float32]]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fixed]:
    rng = np.random.default_rng(11)
    ordinals = np.sort(rng.choice(SPAN // 2, BASE_COUNT, replace=False)).astype(np.int64)
    vectors = grid_vectors(rng, BASE_COUNT, DIM)
    vectors[20:60] = vectors[20]  # one text many times: ties that are no accident
    live = dict(zip(ordinals.tolist(), vectors, strict=True))
    made = {}
    for family, nlist, nprobe in (("Flat", 0, 0), ("IVF,SQfp16", NLIST, 2)):
        folder = tmp_path_factory.mktemp("generation")
        manifest = write_generation(
            folder, vectors, ordinals, family=family, nlist=nlist, nprobe=nprobe, shard_count=3
        )
        made[family] = Fixed(ShardSet.open(folder, manifest), live)
    return made


@st.composite
def days(draw: st.DrawFn) -> tuple[int, int, list[list[tuple[int, bool]]]]:
    """(seed of the vectors, rows at which the head seals, batches of (ordinal, is a put))."""
    change = st.tuples(st.integers(0, SPAN - 1), st.booleans())
    batches = draw(st.lists(st.lists(change, max_size=25), max_size=6))
    return draw(st.integers(0, 2**16)), draw(st.sampled_from([1, 5, 20, 4096])), batches


@dataclass(frozen=True)
class Question:
    seed: int
    k: int
    eligible_share: float | None
    excluded_share: float
    gather_limit: int
    max_overfetch: int


questions = st.builds(
    Question,
    seed=st.integers(0, 2**16),
    k=st.sampled_from([1, 2, 7, 30, 120, 500]),
    eligible_share=st.sampled_from([None, 0.0, 0.02, 0.3, 1.0]),
    excluded_share=st.sampled_from([0.0, 0.05, 0.6, 1.0]),
    # Each stage must hold by itself, so each is forced in turn.
    gather_limit=st.sampled_from([0, 2048]),
    max_overfetch=st.sampled_from([0, 1024]),
)


def live_the_day(fixed: Fixed, day: tuple[int, int, list[list[tuple[int, bool]]]]):
    seed, seal_at, batches = day
    rng = np.random.default_rng(seed)
    delta, live = Delta.empty(fixed.base, seal_at=seal_at), dict(fixed.live)
    for batch in batches:
        changes = []
        for ordinal, is_put in batch:
            vector = grid_vectors(rng, 1, DIM)[0] if is_put else None
            changes.append(DeltaChange(ordinal, vector))
            if vector is None:
                live.pop(ordinal, None)
            else:
                live[ordinal] = vector
        delta = delta.apply(changes)
    return delta, live


def ask(question: Question):
    rng = np.random.default_rng(question.seed)
    query = grid_vectors(rng, 1, DIM)[0]
    share = question.eligible_share
    # Shorter than the span on purpose: ordinals beyond the mask are not eligible.
    eligible = None if share is None else rng.random(SPAN - 40) < share
    excluded = np.flatnonzero(rng.random(SPAN) < question.excluded_share).astype(np.int64)
    return query, eligible, excluded


def shown(live, eligible, excluded):
    banned = set(excluded.tolist())
    return {
        ordinal: vector
        for ordinal, vector in live.items()
        if ordinal not in banned
        and (eligible is None or (ordinal < len(eligible) and eligible[ordinal]))
    }


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patch:
        yield patch


@pytest.mark.parametrize("family", ["Flat", "IVF,SQfp16"])
@given(day=days(), question=questions)
@settings(max_examples=250, deadline=None)
def test_search_equals_brute_force_over_what_is_live(bases, family, day, question):
    fixed = bases[family]
    delta, live = live_the_day(fixed, day)
    query, eligible, excluded = ask(question)
    expected = brute_force(shown(live, eligible, excluded), query, question.k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "GATHER_LIMIT", question.gather_limit)
        patch.setattr(search_module, "MAX_OVERFETCH", question.max_overfetch)
        answer = search(
            fixed.base,
            delta,
            query,
            question.k,
            eligible=eligible,
            excluded=excluded,
            nprobe=NLIST,
        )
    assert pairs(*answer) == expected


@given(day=days(), question=questions, nprobe=st.integers(1, NLIST))
@settings(max_examples=250, deadline=None)
def test_ivf_never_returns_fewer_than_k_or_all_there_is(bases, day, question, nprobe):
    fixed = bases["IVF,SQfp16"]
    delta, live = live_the_day(fixed, day)
    query, eligible, excluded = ask(question)
    allowed = shown(live, eligible, excluded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "GATHER_LIMIT", question.gather_limit)
        patch.setattr(search_module, "MAX_OVERFETCH", question.max_overfetch)
        scores, ordinals = search(
            fixed.base,
            delta,
            query,
            question.k,
            eligible=eligible,
            excluded=excluded,
            nprobe=nprobe,
        )
    assert len(ordinals) == min(question.k, len(allowed))
    assert len(set(ordinals.tolist())) == len(ordinals)
    assert pairs(scores, ordinals) == brute_force(
        {ordinal: allowed[ordinal] for ordinal in ordinals.tolist()}, query, question.k
    )


@pytest.mark.parametrize("family", ["Flat", "IVF,SQfp16"])
@given(day=days())
@settings(max_examples=100, deadline=None)
def test_live_vectors_are_the_last_ones_put(bases, family, day):
    fixed = bases[family]
    delta, live = live_the_day(fixed, day)
    found, vectors = live_vectors_of(fixed.base, delta, np.arange(SPAN, dtype=np.int64))
    assert np.flatnonzero(found).tolist() == sorted(live)
    assert delta.live_ordinals().tolist() == sorted(live)
    assert delta.live_count() == len(live)
    for ordinal, vector in live.items():
        assert np.array_equal(vectors[ordinal], vector)


@pytest.mark.parametrize("family", ["Flat", "IVF,SQfp16"])
@given(day=days(), question=questions)
@settings(max_examples=50, deadline=None)
def test_apply_leaves_the_old_snapshot_as_it_was(bases, family, day, question):
    fixed = bases[family]
    delta, live = live_the_day(fixed, day)
    query, _, _ = ask(question)
    before = pairs(*search(fixed.base, delta, query, question.k, nprobe=NLIST))
    newer = delta.apply(DeltaChange(o, None) for o in list(live))
    newer.apply([DeltaChange(o, np.full(DIM, 1.0, np.float32)) for o in range(0, SPAN, 3)])
    assert pairs(*search(fixed.base, delta, query, question.k, nprobe=NLIST)) == before
    assert len(search(fixed.base, newer, query, question.k)[0]) == 0


@pytest.mark.parametrize("family", ["Flat", "IVF,SQfp16"])
def test_a_source_whose_best_rows_are_all_dropped_still_gives_its_next(bases, family):
    """One shard's best rows are excluded; its next ones beat every row of the other shards."""
    fixed = bases[family]
    delta = Delta.empty(fixed.base)
    query = np.full(DIM, 1.0, np.float32)
    best = brute_force(fixed.live, query, 60)
    excluded = {ordinal for _, ordinal in best[:40]}
    answer = search(fixed.base, delta, query, 5, excluded=excluded, nprobe=NLIST)
    assert pairs(*answer) == best[40:45]


def test_pages_of_equal_scores_neither_repeat_nor_skip(bases):
    fixed = bases["Flat"]
    delta = Delta.empty(fixed.base)
    query = fixed.live[sorted(fixed.live)[20]]
    whole = pairs(*search(fixed.base, delta, query, 60))
    for k in range(1, 60):
        assert pairs(*search(fixed.base, delta, query, k)) == whole[:k]


def test_a_query_that_is_not_finite_or_of_another_shape_is_refused(bases):
    base = bases["Flat"].base
    delta = Delta.empty(base)
    for query in (
        np.full(DIM, np.nan, np.float32),
        np.zeros(DIM + 1, np.float32),
        np.zeros((1, DIM), np.float32),
        np.zeros(DIM, np.float64),
    ):
        with pytest.raises(ValueError, match="quer"):
            search(base, delta, query, 5)
    for k in (0, search_module.MAX_K + 1):
        with pytest.raises(ValueError, match="k must be"):
            search(base, delta, np.zeros(DIM, np.float32), k)
