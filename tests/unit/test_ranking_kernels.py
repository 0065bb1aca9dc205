"""The kernels of a list give what plain numpy gives, of any catalog, user and month."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs import compiled
from ray_jobs.ranking.activity import DAY_MS, HORIZONS_DAYS, Activity
from ray_jobs.ranking.fusion import FEATURES, PARTS, Evidence, Fusion, UserWeights
from ray_jobs.ranking.neighbours import Near, Neighbours
from ray_jobs.ranking.shown import Shown
from ray_jobs.ranking.sources import Pools, candidates
from ray_jobs.ranking.whole_history import WholeHistory
from tests.unit import reference_lists

NOW = 1_000 * DAY_MS
seeds = st.integers(0, 2**32 - 1)
shares = st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0])


def some(rng: np.random.Generator, span: int, most: int) -> np.ndarray:
    """Ordinals, ascending."""
    count = int(rng.integers(0, min(most, span) + 1))
    return np.sort(rng.choice(span, count, replace=False)).astype(np.int64)


def neighbours_of(rng: np.random.Generator, span: int) -> Neighbours:
    rows = [some(rng, span, 30) for _ in range(span)]
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    items, late = some(rng, span, 40), np.zeros(0, np.int64)
    late = items[rng.random(len(items)) < 0.5]
    factors, before, after = (
        (rng.standard_normal((len(of), 5)) / 9).astype(np.float32) for of in (items, items, late)
    )
    return Neighbours(
        offsets,
        np.concatenate(rows).astype(np.int32),
        # Few values, so that many are alike.
        (rng.integers(-3, 9, (offsets[-1], 2)) / 8).astype(np.float16),
        WholeHistory(items, factors, before, late, after),
    )


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 300), shares, shares)
def test_the_list_of_any_user_is_that_of_plain_numpy(
    seed: int, span: int, hidden_share: float, gone_share: float
) -> None:
    rng = np.random.default_rng(seed)
    beside = neighbours_of(rng, span)
    recent = rng.permutation(np.append(some(rng, span, 50), span + 7))
    near = beside.near(recent)
    order = np.argsort(near.ordinals)
    expected_N, expected_N3 = reference_lists.near(beside, recent)
    np.testing.assert_array_equal(near.ordinals[order], expected_N)
    np.testing.assert_allclose(near.sums[order], expected_N3, rtol=1e-6, atol=1e-7)

    active, newest = some(rng, span, 250), some(rng, span, 200)
    sums = rng.integers(0, 4, (len(active), len(HORIZONS_DAYS))).astype(np.float32)
    published = rng.integers(-1, 9, len(newest)) * DAY_MS + NOW - 5 * DAY_MS
    pools = Pools(active, sums, newest, np.where(rng.random(len(newest)) < 0.1, -1, published))
    hidden = np.flatnonzero(rng.random(span) < hidden_share)
    live = rng.random(int(rng.integers(0, span + 20))) > gone_share
    eligible = None if seed % 3 else rng.random(max(1, span - 5)) < 0.7
    shown = Shown(None if eligible is not None and seed % 2 else live, hidden, eligible)
    there = set(range(span + 20)) - set(hidden.tolist())
    for mask in (shown.live, shown.eligible):
        if mask is not None:
            there &= set(np.flatnonzero(mask).tolist())
    nearest = some(rng, span, 60)
    found = candidates(pools, near, nearest, NOW, shown)
    expected = reference_lists.candidates(
        pools, expected_N, near.sums[order], nearest, NOW, there.__contains__
    )
    np.testing.assert_array_equal(found, expected)

    sums_M3 = near.at(found)
    rows = {o: row for row, o in enumerate(near.ordinals.tolist())}
    for ordinal, sums_3 in zip(found.tolist(), sums_M3, strict=True):
        np.testing.assert_array_equal(sums_3, near.sums[rows[ordinal]] if ordinal in rows else 0)
    seen = some(rng, span, 60)
    np.testing.assert_allclose(
        beside.whole.says(seen, found),
        reference_lists.says(beside.whole, seen, found),
        rtol=1e-5,
        atol=1e-6,
    )


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 60), st.booleans(), st.booleans(), shares)
def test_the_score_of_any_evidence_is_that_of_plain_numpy(
    seed: int, count: int, is_known: bool, is_quiet: bool, empty: float
) -> None:
    rng = np.random.default_rng(seed)
    evidence = Evidence(
        cosines=rng.uniform(-1, 1, count).astype(np.float32),
        activity=np.cumsum(rng.exponential(2, (count, len(HORIZONS_DAYS))), 1).astype(np.float32),
        published_ms=np.where(rng.random(count) < 0.2, -1, NOW + rng.integers(-999, 9, count)),
        neighbours=rng.exponential(1, (count, 3)).astype(np.float32),
        history=rng.normal(0, 1, (count, 2)).astype(np.float32),
        recent=rng.uniform(-1, 1, count).astype(np.float32),
    )
    for part in (evidence.activity, evidence.neighbours, evidence.history):
        part[rng.random(count) < empty] = 0
    expected = reference_lists.features(evidence, NOW, quiet=is_quiet)
    np.testing.assert_allclose(evidence.features(NOW, quiet=is_quiet), expected, atol=2e-6)
    of = [
        UserWeights(known=tuple(k), new=tuple(n))
        for k, n in rng.normal(size=(2, 2, expected.shape[1]))
    ]
    fusion = Fusion(lively=of[0], quiet=of[1], usual_month=1, questions=1)
    scored = fusion.score(np.arange(count), evidence, NOW, is_known=is_known, is_quiet=is_quiet)
    weights = of[is_quiet].known if is_known else of[is_quiet].new
    np.testing.assert_allclose(scored.scores, expected @ np.array(weights), atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(scored.scores, sum(scored.parts.values()), atol=1e-5)
    assert list(scored.parts) == list(PARTS)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([20, 2_000, 40_000]))
def test_the_activity_of_any_item_is_that_of_plain_numpy(seed: int, span: int) -> None:
    """Of dense ordinals by a table, of sparse and of few by a search."""
    rng = np.random.default_rng(seed)
    ordinals = some(rng, span, 20_000)
    sums = rng.random((len(ordinals), len(HORIZONS_DAYS))).astype(np.float32)
    activity, asked = Activity(ordinals, sums, NOW), rng.integers(-3, span + 9, 50)
    np.testing.assert_allclose(
        activity.at(asked, NOW + DAY_MS),
        reference_lists.activity_at(activity, asked, NOW + DAY_MS),
        rtol=1e-6,
    )


def test_arrays_as_they_come_from_files_and_from_a_stored_session_are_taken() -> None:
    """Read-only, and at an address that is no multiple of eight."""
    rng = np.random.default_rng(1)
    beside = neighbours_of(rng, 50)
    recent = np.frombuffer(b"x" + np.array([3, 4], np.int64).tobytes(), np.int64, 2, 1)
    assert not recent.flags.aligned
    assert not recent.flags.writeable
    expected, _ = reference_lists.near(beside, recent)
    assert sorted(beside.near(recent).ordinals.tolist()) == expected.tolist()


def test_nothing_is_compiled_for_other_types_once_a_generation_is_warm() -> None:
    compiled.compile_all()
    with pytest.raises(TypeError, match="No matching definition"):
        Near.nobody().at(np.zeros(3, np.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "failure", [RuntimeError("no locator"), OSError(28, "no space"), EOFError(), ValueError()]
)
def test_where_nothing_can_be_kept_or_read_it_is_compiled_for_the_process(
    failure: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(compiled, "CACHE", Path("somewhere"))
    monkeypatch.setattr("numba.core.dispatcher.Dispatcher.enable_caching", nowhere)

    def doubled(number: int) -> int:
        return 2 * number

    alone = compiled.Kernel(doubled, (compiled.INT,), False)
    with caplog.at_level(logging.WARNING):
        assert alone(4) == 8
    assert "for this process only" in caplog.text


def test_machine_code_of_other_sources_is_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, kept, no_folder = tmp_path / "shelves", tmp_path / "kept", tmp_path / "a file"
    (sources / "ranking").mkdir(parents=True)
    (sources / "ranking" / "activity.py").write_text("HORIZONS = 8")
    no_folder.write_text("")
    monkeypatch.setattr(compiled, "SHELVES", sources)
    first = compiled.cache_folder((no_folder, kept))
    assert first is not None
    assert first.parent == kept, "what cannot be written is passed over"
    assert compiled.cache_folder((kept,)) == first
    (sources / "ranking" / "activity.py").write_text("HORIZONS = 9")
    assert compiled.cache_folder((kept,)) != first
    assert compiled.cache_folder((no_folder,)) is None


@pytest.mark.parametrize(
    ("offsets", "ordinals"),
    [([0, 2**40], [1]), ([0, 3, 1], [1]), ([-5, 1], [1]), ([0, 1], [-7]), ([], [])],
)
def test_neighbours_that_would_be_read_out_of_bounds_are_refused(
    offsets: list[int], ordinals: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"offsets|lengths|negative"):
        Neighbours(
            np.array(offsets, np.int64),
            np.array(ordinals, np.int32),
            np.zeros((len(ordinals), 2), np.float16),
            WholeHistory.nobody(),
        )


@pytest.mark.parametrize("ordinals", [[3, 2], [1, 1], [-1, 4]])
def test_activity_and_histories_of_items_out_of_order_are_refused(ordinals: list[int]) -> None:
    items, two = np.array(ordinals, np.int64), np.zeros((2, 1), np.float32)
    with pytest.raises(ValueError, match="ascend"):
        Activity(items, np.zeros((2, len(HORIZONS_DAYS)), np.float32), 0)
    with pytest.raises(ValueError, match="ascend"):
        WholeHistory(items, two, two, np.zeros(0, np.int64), np.zeros((0, 1), np.float32))


def test_the_features_of_this_version_are_those_of_the_reference() -> None:
    nothing = np.zeros(0, np.float32)
    none = Evidence(
        *(nothing, nothing.reshape(0, len(HORIZONS_DAYS)), np.zeros(0, np.int64)),
        *(nothing.reshape(0, 3), nothing.reshape(0, 2), nothing),
    )
    assert reference_lists.features(none, NOW, quiet=False).shape == (0, len(FEATURES))
