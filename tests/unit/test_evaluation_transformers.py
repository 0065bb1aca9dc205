"""RecTools' transformers in a replay, with a stand-in for the process that has them."""

import gc
import json
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from infra.evaluation.interactions import DAY_MS, Interactions, ReplayRule, from_columns
from infra.evaluation.rankers import transformers
from infra.evaluation.rankers.choosing import OrPopular
from infra.evaluation.rankers.transformers import Transformer
from infra.evaluation.rectools import peer as peers
from infra.evaluation.replay import replay
from infra.evaluation.task import Question
from infra.evaluation.walk import walk

ITEMS, USERS, CUT_DAY = 30, 20, 30

STUB = """
import json, os, sys
events, model, setting, seed = sys.argv[1:]
told = open(json.loads(setting)["told"], "a")
learned = [line.split(",") for line in open(events).read().split()[1:]]
print(json.dumps([os.getpid(), max(int(row) for _, _, row in learned)]), file=told, flush=True)
print("{}", flush=True)
number = 0
for line in sys.stdin:
    command, _, path = line.strip().partition(" ")
    number += command == "epoch"
    answer = {"epoch": number, "wall_s": 2.0, "cpu_s": 1.0} if command == "epoch" else command
    if command == "lists":
        last = {}
        for user, item, row in (each.split(",") for each in open(path).read().split()[1:]):
            last[int(user)] = int(item)
        lag = json.loads(setting).get("lag", 0)
        answer = [[(last[user] + 1 + lag) % 30, number] for user in sorted(last)]
    print(json.dumps(answer), flush=True)
"""
"""Lists the item after the last one, then the one of the epoch's number; tells what it learned."""


def made() -> Interactions:
    """The item after the last one is what each user takes next."""
    events = [
        (user, (user + step) % ITEMS, (2 * step + user % 2) * DAY_MS)
        for step in range(22)
        for user in range(USERS + step // 8)
    ]
    columns = np.array(sorted(events, key=lambda event: event[2]), np.int64).T
    rule = ReplayRule(cut_ms=CUT_DAY * DAY_MS, validation_days=5)
    return from_columns("made", ["-"] * ITEMS, *columns, "view", rule=rule)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where each process of the stand-in says its pid and the last row that it learned."""
    stub, told = tmp_path / "stub.py", tmp_path / "told"
    stub.write_text(STUB)
    monkeypatch.setattr(peers, "WORKER", stub)
    monkeypatch.setattr(transformers, "environment", lambda folder: Path(sys.executable))
    monkeypatch.setattr(transformers, "SETTINGS", {"SASRecModel": [{"told": str(told)}]})
    return told


def processes(told: Path) -> list[tuple[int, int]]:
    return [tuple(json.loads(line)) for line in told.read_text().splitlines()]


def test_histories_are_live_and_learning_is_as_often_as_said(told: Path, tmp_path: Path) -> None:
    task = replay(made(), "nightly+live", nights=1)
    lessons = [lesson for lesson, _ in task.steps]
    assert len(lessons) > 10
    ranker = Transformer("SASRecModel", 0, tmp_path, days=7)
    answers = walk(task, ranker)
    questions = [question for _, asked in task.steps for question in asked]
    known = np.array([len(question.history) > 0 for question in questions])
    assert not known.all()
    assert (answers.ndcg_Q[known] == 1).all()
    assert (answers.lists_QK[~known] == -1).all()
    began = processes(told)
    assert len(began) == 4, "14 days are two weeks; to choose the epoch, then with all events"
    learned = [last_row for _, last_row in began]
    assert learned == [
        int(rows[-1])
        for lesson in (lessons[0], lessons[7])
        for rows in (np.setdiff1d(lesson.rows, lesson.held_out), lesson.rows)
    ]
    *ended, last = [pid for pid, _ in began]
    assert not any(psutil.pid_exists(pid) for pid in ended), "ended when the next one began"
    assert psutil.pid_exists(last)
    del ranker
    gc.collect()
    assert not psutil.pid_exists(last), "ended with its ranker"


def test_the_best_epoch_answers_and_who_is_new_gets_what_is_popular(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers, "PATIENCE", 3)
    task = replay(made(), "nightly+live", nights=30)
    ranker = OrPopular(Transformer("SASRecModel", 0, tmp_path, days=30), (30.0,))
    answers = walk(task, ranker)
    assert ranker.choice.startswith("epoch 1; ")
    questions = [question for _, asked in task.steps for question in asked]
    is_new = np.array([not len(question.history) for question in questions])
    assert (answers.lists_QK[is_new] >= 0).all()
    # Trained again for one epoch: item 1, where it may be listed at all.
    assert set(answers.lists_QK[~is_new, 1].tolist()) == {1, -1}


def test_of_two_settings_the_held_out_events_choose(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers, "PATIENCE", 2)
    settings = [{"told": str(told), "lag": 1}, {"told": str(told), "lag": 0}]
    monkeypatch.setattr(transformers, "SETTINGS", {"BERT4RecModel": settings})
    task = replay(made(), "nightly+live", nights=30)
    ranker = Transformer("BERT4RecModel", 0, tmp_path, days=30)
    walk(task, ranker)
    assert ranker.choice.endswith("lag 0")
    pids = [pid for pid, _ in processes(told)]
    assert [psutil.pid_exists(pid) for pid in pids] == [False, False, True]


def test_a_question_that_was_not_told_ahead_is_an_error(told: Path, tmp_path: Path) -> None:
    task = replay(made(), "nightly+live", nights=30)
    ((lesson, questions),) = list(task.steps)
    ranker = Transformer("SASRecModel", 0, tmp_path, days=30)
    ranker.fit(task.log, lesson)
    some: list[Question] = questions[:3]
    ranker.ahead(task.log, some)
    assert np.isfinite(ranker.scores(task.log, some[0])).sum() == 2
    with pytest.raises(KeyError):
        ranker.scores(task.log, questions[-1])
