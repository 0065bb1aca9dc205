"""Fusion: what the weights mean, how they are learned, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from ray_jobs.ranking.activity import DAY_MS, HORIZONS_DAYS, Activity
from ray_jobs.ranking.fusion import (
    AGES_DAYS,
    FEATURES,
    IS_USERS_F,
    NEVER_WORSE,
    PARTS,
    Evidence,
    Fusion,
    UserWeights,
)
from ray_jobs.ranking.fusion_fit import MIN_QUESTIONS, Question, fit_fusion, fit_logit
from ray_jobs.ranking.neighbours import SUMS, Neighbours, count_neighbours
from ray_jobs.ranking.priors import (
    FILES,
    FUSION_NAME,
    Priors,
    PriorsError,
)
from ray_jobs.ranking.shown import Shown
from ray_jobs.ranking.sources import Pools, candidates
from ray_jobs.ranking.whole_history import WholeHistory
from ray_jobs.shards.atomic import whole_file

NOW = 1_000 * DAY_MS


def evidence(count: int, rng: np.random.Generator) -> Evidence:
    return Evidence(
        cosines=rng.uniform(-1, 1, count).astype(np.float32),
        activity=np.cumsum(rng.exponential(2, (count, len(HORIZONS_DAYS))), 1).astype(np.float32),
        published_ms=NOW - rng.integers(0, 150, count) * DAY_MS,
        neighbours=rng.exponential(1, (count, len(SUMS))).astype(np.float32),
        history=rng.normal(0, 1, (count, 2)).astype(np.float32),
        recent=rng.uniform(-1, 1, count).astype(np.float32),
    )


def fusion_of(rng: np.random.Generator) -> Fusion:
    def drawn_weights() -> UserWeights:
        known, new = rng.normal(size=(2, len(FEATURES)))
        return UserWeights(known=tuple(known), new=tuple(np.where(IS_USERS_F, 0, new)))

    return Fusion(lively=drawn_weights(), quiet=drawn_weights(), usual_month=50, questions=500)


@pytest.mark.parametrize("is_quiet", [True, False])
@pytest.mark.parametrize("is_known", [True, False])
def test_the_parts_of_a_score_add_up_to_it(is_known: bool, is_quiet: bool) -> None:
    rng = np.random.default_rng(0)
    fusion, given = fusion_of(rng), evidence(50, rng)
    scored = fusion.score(np.arange(50), given, NOW, is_known=is_known, is_quiet=is_quiet)
    assert list(scored.parts) == list(PARTS)
    np.testing.assert_allclose(scored.scores, sum(scored.parts.values()), rtol=1e-5)
    of_users = fusion.quiet if is_quiet else fusion.lively
    weights = np.array(of_users.known if is_known else of_users.new)
    features = given.features(NOW, quiet=is_quiet)
    np.testing.assert_allclose(scored.scores, features @ weights, rtol=1e-4, atol=1e-4)
    if is_known:
        np.testing.assert_allclose(
            scored.parts["cosine"],
            fusion.cosine_weight(is_quiet=is_quiet) * given.cosines,
            rtol=1e-5,
        )
    else:
        assert not scored.parts["cosine"].any()
        assert not scored.parts["neighbours"].any()


def test_newness_falls_with_age_and_is_zero_of_the_unpublished_and_where_nobody_says() -> None:
    given = evidence(4, np.random.default_rng(0))
    published_ms = np.array([NOW, NOW - 60 * DAY_MS, -1, NOW + DAY_MS])
    features = replace(given, published_ms=published_ms).features(NOW)
    ages = [column for column, name in enumerate(FEATURES) if name in PARTS["age"]]
    found = np.cumsum(features[:, ages], axis=1)  # each is what it adds to the shorter one
    np.testing.assert_allclose(found[0], 1)
    np.testing.assert_allclose(found[1], [np.exp(-60 / days) for days in AGES_DAYS], rtol=1e-5)
    assert not found[2].any()
    assert not found[3].any()


def drawn(count: int, weights_F: np.ndarray, rng: np.random.Generator) -> list[Question]:
    """Questions whose answers are drawn with the odds that the weights say."""
    questions = []
    for _ in range(count):
        features = evidence(30, rng).features(NOW)
        logits = features @ weights_F
        chance = np.exp(logits - logits.max())
        target = int(rng.choice(len(logits), p=chance / chance.sum()))
        questions.append(Question(features, target))
    return questions


def test_the_weights_that_drew_the_answers_are_found() -> None:
    rng = np.random.default_rng(1)
    truth = np.zeros(len(FEATURES))
    truth[[FEATURES.index(name) for name in ("cosine", "activity_7d", "age_60d", "recent")]] = (
        *(3.0, 0.8),
        *(2.0, -1.0),
    )
    found = fit_logit(drawn(3_000, truth, rng), np.ones(len(FEATURES), np.bool_))
    named = [FEATURES.index(name) for name in ("cosine", "activity_7d", "recent")]
    np.testing.assert_allclose(found[named], truth[named], atol=0.3)
    features = evidence(1_000, rng).features(NOW)  # newness of several horizons is hard to tell
    assert np.corrcoef(features @ found, features @ truth)[0, 1] > 0.99


def test_new_users_weights_need_no_user_and_scores_are_spread_as_cosines_are() -> None:
    rng = np.random.default_rng(2)
    truth = np.where(np.array(FEATURES) == "cosine", 9.0, 0.5)
    questions = drawn(MIN_QUESTIONS, truth, rng)
    fusion = fit_fusion(questions, questions, 1.0)
    assert fusion is not None
    assert not np.array(fusion.lively.new)[IS_USERS_F].any()
    assert np.array(fusion.lively.new)[~IS_USERS_F].any()
    spreads = [(q.features @ np.array(fusion.lively.known)).std() for q in questions]
    cosines = [q.features[:, 0].std() for q in questions]
    np.testing.assert_allclose(np.mean(spreads), np.mean(cosines), rtol=1e-3)


def test_nobody_is_worse_for_being_near_or_new() -> None:
    truth = np.array([-1.0 if name in NEVER_WORSE else 0.0 for name in FEATURES])
    found = fit_logit(drawn(500, truth, np.random.default_rng(7)), np.ones(len(FEATURES), np.bool_))
    for name, weight in zip(FEATURES, found, strict=True):
        assert name not in NEVER_WORSE or weight >= 0, name


def test_in_a_quiet_month_what_was_always_liked_is_listed_first() -> None:
    """Lively, what was liked long ago and is not now is bad; then the log pauses for years."""
    rng = np.random.default_rng(8)
    lively, quiet = [], []
    for _ in range(300):
        given = evidence(30, rng)
        taken = int(np.argmax(given.activity[:, 0] * 20 - given.activity[:, -1]))
        given.activity[taken, -1] += 20  # and it is much liked in all
        lively.append(Question(given.features(NOW), taken))
        quiet.append(Question(given.features(NOW, quiet=True), taken))
    fusion = fit_fusion(lively, quiet, usual_month=100.0)
    assert fusion is not None
    assert fusion.is_quiet(9.9)
    assert not fusion.is_quiet(10.1)
    count = 20
    old = Evidence(
        cosines=np.zeros(count, np.float32),
        activity=np.zeros((count, len(HORIZONS_DAYS)), np.float32),
        published_ms=np.full(count, -1),
        neighbours=np.zeros((count, len(SUMS)), np.float32),
        history=np.zeros((count, 2), np.float32),
        recent=np.zeros(count, np.float32),
    )
    old.activity[:, -1] = np.arange(count)
    for is_known in (True, False):
        scored = fusion.score(np.arange(count), old, NOW, is_known=is_known, is_quiet=True)
        assert (np.diff(scored.scores) > 0).all()


def test_what_hardly_varied_gets_no_weight_that_would_decide_alone() -> None:
    rng = np.random.default_rng(6)
    questions = drawn(MIN_QUESTIONS, np.zeros(len(FEATURES)), rng)
    column = FEATURES.index("age_3d")
    for number, question in enumerate(questions):  # one new item a question, seldom the one taken
        question.features[:, column] = 0
        row = question.target if number == 0 else (question.target + 1) % 30
        question.features[row, column] = 1e-3
    found = fit_logit(questions, np.ones(len(FEATURES), np.bool_))
    assert abs(found[column]) < 3


def test_a_feature_that_never_varies_and_too_few_questions_teach_nothing() -> None:
    rng = np.random.default_rng(3)
    questions = drawn(MIN_QUESTIONS, np.zeros(len(FEATURES)), rng)
    assert fit_fusion(questions[1:], questions[1:], 1.0) is None
    for question in questions:
        question.features[:, FEATURES.index("recent")] = 0
    found = fit_logit(questions, np.ones(len(FEATURES), np.bool_))
    assert np.isfinite(found).all()
    assert found[FEATURES.index("recent")] == 0


def priors_of(rng: np.random.Generator) -> Priors:
    hours = [(5, (np.array([1, 4]), np.array([2.0, 1.0], np.float32)))]
    beside = count_neighbours(np.array([1, 1, 2]), np.array([0, 3, 3]), 5)
    fusion = fusion_of(rng).model_copy(update={"activity_hour": 6})
    return Priors(fusion, Activity.of_hours(hours, 6 * 3_600_000), beside)


def test_priors_survive_their_files(tmp_path: Path) -> None:
    before = priors_of(np.random.default_rng(4))
    before.write(tmp_path, whole_file)
    after = Priors.open(tmp_path)
    assert after is not None
    assert after.fusion == before.fusion
    everything = np.arange(7)
    np.testing.assert_array_equal(
        after.activity.at(everything, NOW), before.activity.at(everything, NOW)
    )
    whole = after.neighbours.whole
    np.testing.assert_array_equal(
        whole.says(np.array([0, 3]), everything),
        before.neighbours.whole.says(np.array([0, 3]), everything),
    )
    for recent in ([0], [3, 0], [6]):
        for left, right in zip(
            after.neighbours.near(np.array(recent)),
            before.neighbours.near(np.array(recent)),
            strict=True,
        ):
            np.testing.assert_array_equal(left, right)
    assert Priors.open(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("name", [FUSION_NAME, *FILES])
@pytest.mark.parametrize("damage", ["cut", "gone", "pickle"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    priors_of(np.random.default_rng(4)).write(tmp_path, whole_file)
    path = tmp_path / name
    if damage == "gone":
        path.unlink()
        if name == FUSION_NAME:
            assert Priors.open(tmp_path) is None  # as in a generation without fusion
            return
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        np.save(path.with_suffix(".npy"), np.array([{}], object), allow_pickle=True)
        if path.suffix != ".npy":
            path.write_bytes(path.with_suffix(".npy").read_bytes())
    with pytest.raises(PriorsError) as caught:
        Priors.open(tmp_path)
    assert caught.value.path.parent == tmp_path
    assert name.split(".")[0] in caught.value.path.name


def test_an_older_version_is_no_fusion_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A generation that was live before an upgrade goes on, by cosine."""
    priors_of(np.random.default_rng(4)).write(tmp_path, whole_file)
    path = tmp_path / FUSION_NAME
    path.write_text(path.read_text().replace('"format_version": 3', '"format_version": 2'))
    assert Priors.open(tmp_path) is None
    assert "until the next night" in caplog.text


def test_weights_of_other_features_and_unknown_fields_are_refused() -> None:
    fusion = fusion_of(np.random.default_rng(5))
    with pytest.raises(ValidationError, match="this version has"):
        Fusion.model_validate(fusion.model_dump() | {"features": FEATURES[::-1]})
    with pytest.raises(ValidationError, match="extra"):
        Fusion.model_validate(fusion.model_dump() | {"more": 1})
    with pytest.raises(ValidationError, match="finite"):
        UserWeights(known=(float("nan"),) * len(FEATURES), new=fusion.quiet.new)


def test_every_source_gives_its_best_of_what_may_be_shown() -> None:
    ordinals = np.arange(1_000)
    sums = np.zeros((1_000, len(HORIZONS_DAYS)), np.float32)
    sums[7, 0], sums[500:700, -1] = 5, 3
    pools = Pools(ordinals, sums, np.array([800, 801, 802]), np.array([NOW - 5, NOW, NOW + 5]))
    beside = Neighbours(
        np.array([0, 2]),
        np.array([900, 901], np.int32),
        np.array([[1, 0], [2, 0]], np.float16),
        WholeHistory.nobody(),
    )
    near = beside.near(np.array([0]))
    shown = Shown(np.ones(1_000, np.bool_), np.array([901]))
    found = candidates(pools, near, np.zeros(0, np.int64), NOW, shown).tolist()
    assert {7, 800, 801, 900} <= set(found)
    assert not {802, 901} & set(found)
    assert len(set(found) & set(range(500, 700))) >= 100
    assert found == sorted(set(found))
