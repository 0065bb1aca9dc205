"""Temporal replay: what is known when a list is asked for, in each variant, on a made log."""

import numpy as np
import pytest

from infra.evaluation.errors import NoReplay
from infra.evaluation.evaluate import Request, as_json, evaluate
from infra.evaluation.interactions import (
    DAY_MS,
    LONG_AGO_MS,
    Interactions,
    ReplayRule,
    from_columns,
)
from infra.evaluation.rankers.popularity import Newest, Popularity
from infra.evaluation.replay import VARIANTS, Variant, replay
from infra.evaluation.task import Question, Task
from infra.evaluation.walk import walk

CUT = 10 * DAY_MS
HOUR = DAY_MS // 24


def log(question: str = "event", published: bool = True) -> Interactions:
    """Two users before the cut; then user 0 twice on one day and once on the next, and user 2."""
    events = [
        *((0, 0, DAY_MS), (1, 1, 2 * DAY_MS), (0, 2, 8 * DAY_MS), (1, 0, 9 * DAY_MS)),
        (0, 3, CUT + HOUR),
        (0, 4, CUT + HOUR),  # the same time: the order of the file
        (2, 5, CUT + 2 * HOUR),
        (0, 1, CUT + DAY_MS + HOUR),
    ]
    users, items, times = np.array(events, np.int64).T
    days = np.array([0, 0, 0, 0, CUT, CUT + DAY_MS], np.int64)
    return from_columns(
        "made",
        [f"item {item}" for item in range(6)],
        users,
        items,
        times,
        "view",
        published_ms_I=days if published else None,
        rule=ReplayRule(CUT, 3, question),  # type: ignore[arg-type]
    )


def asked(task: Task) -> list[Question]:
    return [question for _, questions in task.steps for question in questions]


def test_each_event_is_asked_with_what_came_before_it() -> None:
    task = replay(log(), "nightly+live")
    questions = asked(task)
    assert [question.relevant.tolist() for question in questions] == [[3], [4], [5], [1]]
    assert [question.user for question in questions] == [0, 0, 2, 0]
    histories = [log().items_E[question.history].tolist() for question in questions]
    assert histories == [[0, 2], [0, 2, 3], [], [0, 2, 3, 4]]
    assert task.steps.count == 4


def test_a_basket_is_one_question_with_what_was_known_before_its_minute() -> None:
    first, second, _ = asked(replay(log("basket"), "live"))
    assert first.relevant.tolist() == [3, 4]
    assert log().items_E[first.history].tolist() == [0, 2]
    assert second.relevant.tolist() == [5]


@pytest.mark.parametrize(
    ("variant", "lessons", "last_history"),
    [
        ("frozen", [4], [0, 2]),
        ("live", [4], [0, 2, 3, 4]),
        ("nightly", [4, 7], [0, 2, 3, 4]),
        ("nightly+live", [4, 7], [0, 2, 3, 4]),
    ],
)
def test_a_variant_knows_what_it_says(
    variant: Variant, lessons: list[int], last_history: list[int]
) -> None:
    task = replay(log(), variant, nights=1)
    assert [len(lesson.rows) for lesson, _ in task.steps] == lessons
    questions = asked(task)
    assert log().items_E[questions[-1].history].tolist() == last_history
    of_the_day = log().items_E[questions[1].history].tolist()
    assert of_the_day == ([0, 2, 3] if "live" in variant else [0, 2])
    # Whatever is known, what was seen is not listed: the user cannot take it again.
    assert questions[-1].seen.tolist() == [0, 2, 3, 4]
    assert questions[-1].night == (4 if variant == "frozen" else 7)


def test_a_lesson_knows_nothing_of_the_days_that_follow() -> None:
    events = log()
    for lesson, questions in replay(events, "nightly+live", nights=1).steps:
        assert events.at_ms_E[lesson.rows].max() < lesson.at_ms
        assert all(question.at_ms >= lesson.at_ms for question in questions)
        assert set(lesson.held_out.tolist()) <= set(lesson.rows.tolist())


def test_validation_lies_before_the_cut() -> None:
    validation = replay(log(), "nightly+live").validation
    assert validation is not None
    questions = asked(validation)
    assert [question.relevant.tolist() for question in questions] == [[2], [0]]
    assert all(7 * DAY_MS <= question.at_ms < CUT for question in questions)


def test_an_item_is_a_candidate_from_its_day_on() -> None:
    questions = asked(replay(log(), "live"))
    candidates = [question.candidates for question in questions]
    assert all(mask is not None for mask in candidates)
    assert [mask.tolist()[4:] for mask in candidates if mask is not None] == [
        [True, False],
        [True, False],
        [True, False],  # item 5 is taken before its day: a miss
        [True, True],
    ]
    answers = walk(replay(log(), "live"), Newest())
    assert answers.reciprocal_Q[2] == 0
    assert answers.lists_QK[0].tolist()[:2] == [4, 1]  # the newest, then the catalog's order
    assert asked(replay(log(published=False), "live"))[0].candidates is None


def test_an_unknown_day_is_always_a_candidate_and_never_new() -> None:
    events = log()
    assert events.published_ms_I is not None
    events.published_ms_I[4] = LONG_AGO_MS
    question = asked(replay(events, "live"))[0]
    assert question.candidates is not None
    assert question.candidates[4]
    assert 4 not in walk(replay(events, "live"), Newest()).lists_QK


def test_popularity_windows_end_at_the_last_midnight() -> None:
    questions = asked(replay(log(), "live"))
    task = replay(log(), "live")
    counts = [Popularity(2).scores(task.log, question).tolist() for question in questions]
    assert counts[1] == [1, 0, 1, 0, 0, 0]  # days 8 and 9; not what came an hour ago
    assert counts[3] == [1, 0, 0, 1, 1, 1]


def test_the_report_says_what_live_feedback_adds() -> None:
    request = Request(
        models=("sequential-knn", "popularity"), protocol="replay", variants=VARIANTS, nights=1
    )
    result = as_json(log(), request, evaluate(log(), request))
    assert result["variants"].keys() == set(VARIANTS)
    assert result["models"] == result["variants"]["nightly+live"]
    gain = result["live_feedback"]["popularity"]
    assert (gain["mean"], gain["is_real"]) == (0, False)
    assert len(gain["by_hour"]) == 24
    assert result["models"]["popularity"]["new_users"] is not None


def test_what_cannot_be_replayed_is_said() -> None:
    events = log()
    with pytest.raises(ValueError, match="nights"):
        replay(events, nights=0)
    without = from_columns("short", ["a"], *([np.zeros(1, np.int64)] * 3), "view")
    with pytest.raises(NoReplay, match="short"):
        replay(without)
    with pytest.raises(NoReplay, match="no events"):
        replay(events, until_ms=CUT)
