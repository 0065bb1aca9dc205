"""Our model in a replay: the shelves of the day, with what the night would have learned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.evaluation.ablations.fusions import FUSIONS, walk_fusions
from infra.evaluation.ablations.windows import Windowed
from infra.evaluation.interactions import DAY_MS, Interactions, ReplayRule, from_columns
from infra.evaluation.leave_one_out import leave_one_out, roles
from infra.evaluation.log import Log
from infra.evaluation.rankers.choosing import OrPopular
from infra.evaluation.rankers.fused import Fused
from infra.evaluation.rankers.moonlark import Moonlark, train_data
from infra.evaluation.rankers.popularity import Popularity
from infra.evaluation.replay import replay
from infra.evaluation.task import Lesson, Question, Task
from infra.evaluation.walk import listed, walk
from ray_jobs.encoders.fit import tiny
from ray_jobs.ranking.fusion import FEATURES
from ray_jobs.ranking.fusion_fit import EVERY_F

GROUPS, EACH = 4, 12
NONE = np.zeros(0, np.int64)


def groups(users: int, hours: int = 6) -> Interactions:
    """Each user takes six items of one of four groups, in a random order; a user each six hours."""
    rng = np.random.default_rng(0)
    events = [
        (user, user % GROUPS * EACH + item, user * hours * DAY_MS // 24 + step)
        for user in range(users)
        for step, item in enumerate(rng.choice(EACH, 6, replace=False))
    ]
    columns = np.array(events, np.int64).T
    rule = ReplayRule(cut_ms=users * 9 // 10 * hours * DAY_MS // 24, validation_days=2)
    return from_columns("groups", ["-"] * (GROUPS * EACH), *columns, "view", rule=rule)


def fused(folder: Path, used_F: NDArray[np.bool_] = EVERY_F) -> Fused:
    rng = np.random.default_rng(1)
    texts = rng.normal(size=(GROUPS * EACH, 24)).astype(np.float32)  # they say nothing
    cosine = Moonlark(tiny(), texts, folder)
    return Fused(cosine, OrPopular(cosine, (30.0,)), used_F=used_F)


def test_fusion_learns_and_lists_what_the_group_takes(tmp_path: Path) -> None:
    task = replay(groups(400), "live")
    model = fused(tmp_path)
    answers = walk(task, model)
    assert "neighbours" in model.choice  # who takes one item of a group takes the others
    assert answers.ndcg_Q.mean() > walk(task, Popularity()).ndcg_Q.mean() + 0.1
    for (_, questions), lists in zip(task.steps, [answers.lists_QK], strict=True):
        assert not any(
            np.isin(shown, question.seen).any()
            for shown, question in zip(lists, questions, strict=True)
        )


def test_a_feature_that_is_left_out_weighs_nothing_and_the_others_learn(tmp_path: Path) -> None:
    task = replay(groups(400), "live")
    is_cosine_F = np.array([name == "cosine" for name in FEATURES])
    with_it, without = fused(tmp_path), fused(tmp_path, ~is_cosine_F)
    lists = [walk(task, model).lists_QK for model in (with_it, without)]
    assert "cosine" in with_it.choice
    assert "cosine" not in without.choice
    assert "neighbours" in without.choice
    assert not np.array_equal(*lists)


def test_events_of_the_day_change_the_scores_of_the_next_question(tmp_path: Path) -> None:
    task = replay(groups(400), "live")
    model = fused(tmp_path)
    ((lesson, questions),) = list(task.steps)
    model.fit(task.log, lesson)
    early = next(q for q in questions if len(q.history) == 1)
    late = next(q for q in questions if q.user == early.user and len(q.history) == 5)
    before = listed(np.asarray(model.scores(task.log, early)), early)
    after = listed(np.asarray(model.scores(task.log, late)), late)
    group = early.user % GROUPS * EACH + np.arange(EACH)
    open_items = np.setdiff1d(group, late.seen)
    others = np.setdiff1d(np.arange(GROUPS * EACH), group)
    assert after[open_items].min() > after[others].max()
    assert not np.array_equal(before[open_items], after[open_items])


SAID_F = np.array([name not in ("cosine", "recent") for name in FEATURES])
"""Features that no vector is in: training is not the same with other events."""


def taught(task: Task, folder: Path) -> tuple[Lesson, list[NDArray[np.float32]]]:
    """The lesson, and what is known of the candidates of each question that taught by it."""
    lesson, _ = next(iter(task.steps))
    model = fused(folder)
    model.fit(task.log, lesson)
    return lesson, [found.features[:, SAID_F] for found in model.lessons.lively]


def with_other_items(events: Interactions, rows: NDArray[np.int64]) -> Interactions:
    """The same log, but that these events were about items of the next group."""
    items_E = events.items_E.copy()
    items_E[rows] = (items_E[rows] + EACH) % (GROUPS * EACH)
    return replace(events, items_E=items_E)


def test_the_test_and_the_answers_teach_fusion_nothing(tmp_path: Path) -> None:
    events = groups(400)
    lesson, ours = taught(replay(events, "live"), tmp_path / "ours")
    last = int(lesson.held_out.max())
    unknown = np.arange(last, len(events.items_E))  # the last answer, and all of the test
    _, others = taught(replay(with_other_items(events, unknown), "live"), tmp_path / "others")
    assert len(ours) == len(others) > 20
    assert all(np.array_equal(*pair) for pair in zip(ours, others, strict=True))
    known = np.arange(lesson.held_out.min())
    _, others = taught(replay(with_other_items(events, known), "live"), tmp_path / "known")
    assert not all(np.array_equal(*pair) for pair in zip(ours, others, strict=True))


def test_what_others_are_asked_about_is_no_activity_in_leave_one_out(tmp_path: Path) -> None:
    events = groups(400)
    task = leave_one_out(events)
    assert len(task.log.interactions.items_E) == len(events.items_E), "nothing was filtered"
    _, ours = taught(task, tmp_path / "ours")
    tests = np.flatnonzero(roles(events) == 2)
    _, others = taught(leave_one_out(with_other_items(events, tests)), tmp_path / "others")
    assert len(ours) == len(others) > 200
    assert all(np.array_equal(*pair) for pair in zip(ours, others, strict=True))


def test_too_few_questions_leave_the_cosine_alone(tmp_path: Path) -> None:
    task = replay(groups(60), "live")
    model = fused(tmp_path)
    answers = walk(task, model)
    assert model.choice.startswith("cosine alone")
    alone = walk(task, OrPopular(Moonlark(tiny(), texts_of(model), tmp_path), (30.0,)))
    assert np.array_equal(answers.lists_QK, alone.lists_QK)


def test_the_time_of_a_fit_is_the_trainings_also_where_its_weights_were_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replay(groups(60), "live")
    texts = texts_of(fused(tmp_path))
    walk(task, OrPopular(Moonlark(tiny(), texts, tmp_path), (30.0,)))
    (kept,) = tmp_path.glob("*.json")
    kept.write_text('{"fit_s": 1000.0}')
    monkeypatch.setattr("infra.evaluation.rankers.moonlark.fit", None)  # the weights are read
    for ranker in (OrPopular(Moonlark(tiny(), texts, tmp_path), (30.0,)), fused(tmp_path)):
        assert 1000.0 < walk(task, ranker).fit_s < 1100.0
    kept.unlink()  # weights of whose training nobody kept the time: trained again
    with pytest.raises(TypeError):
        walk(task, Moonlark(tiny(), texts, tmp_path))


def texts_of(model: Fused) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(GROUPS * EACH, 24)).astype(np.float32)


def test_the_export_of_a_lesson_knows_what_was_published_and_what_came_together() -> None:
    events = from_columns(
        "made",
        ["a", "b", "c", "d"],
        np.array([0, 0, 0, 1]),
        np.array([0, 1, 2, 1]),
        np.array([5, 5, 6, 7]),
        "purchase",
        published_ms_I=np.array([0, 0, 0, 100]),
    )
    lesson = Lesson(10, np.arange(4), np.array([3]))
    data = train_data(Log(events), lesson, np.zeros((4, 3), np.float32))
    assert data.item_ordinals_I.tolist() == [0, 1, 2]  # d is of tomorrow
    assert data.moments_E.tolist() == [0, 0, 2, 3]  # a and b are one basket
    assert data.held_out_E.tolist() == [False, False, False, True]


def test_an_earlier_question_is_folded_from_nothing(tmp_path: Path) -> None:
    task = replay(groups(60), "live")
    model = Moonlark(tiny(), texts_of(fused(tmp_path)), tmp_path)
    ((lesson, questions),) = list(task.steps)
    model.fit(task.log, lesson)
    first, later = sorted(
        (q for q in questions if q.user == questions[0].user), key=lambda q: len(q.history)
    )[1:3]
    expected = model.vector(task.log, first)
    model.vector(task.log, later)
    again = model.vector(task.log, first)
    assert expected is not None
    assert again == pytest.approx(expected)
    assert model.vector(task.log, empty(first)) is None


def empty(question: Question) -> Question:
    return Question(question.user + 1, 0, NONE, NONE, 0, 0, 0, NONE, None)


def test_fusions_side_by_side_are_those_walked_one_by_one(tmp_path: Path) -> None:
    task = replay(groups(400), "nightly+live")
    shipped, *_ = variants = (
        FUSIONS[0],
        next(v for v in FUSIONS if v.name == "activity never worse"),
    )
    answers, never_worse = walk_fusions(task, fused(tmp_path), variants)
    assert shipped.name == "shipped"
    alone = walk(task, fused(tmp_path))
    assert np.array_equal(answers.lists_QK, alone.lists_QK)
    assert np.array_equal(answers.ndcg_Q, alone.ndcg_Q)
    assert not np.array_equal(answers.lists_QK, never_worse.lists_QK)


def test_a_window_reads_the_end_of_a_history_alone(tmp_path: Path) -> None:
    task = replay(groups(400), "live")
    rng = np.random.default_rng(1)
    texts = rng.normal(size=(GROUPS * EACH, 24)).astype(np.float32)
    whole, windowed = (of(tiny(), texts, tmp_path) for of in (Moonlark, Windowed))
    windowed.last = 3
    ((lesson, questions),) = list(task.steps)
    for ranker in (whole, windowed):
        ranker.fit(task.log, lesson)
    for question in questions:
        same = np.allclose(
            whole.scores(task.log, question), windowed.scores(task.log, question), atol=1e-6
        )
        assert same == (len(question.history) <= 3)
