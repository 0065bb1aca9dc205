"""The bench of training without its peer: what is handed over, read back, and made of the two."""

import csv
import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.bench import train as bench
from infra.bench.training.ours import train
from infra.evaluation.errors import NotHere
from infra.evaluation.interactions import DAY_MS, Interactions, from_columns
from infra.evaluation.leave_one_out import leave_one_out
from infra.evaluation.rankers import transformers
from infra.evaluation.rankers.moonlark import Moonlark
from infra.evaluation.rectools import peer as peers
from infra.evaluation.rectools.course import Asked, Course
from infra.evaluation.rectools.curve import (
    Point,
    Stopwatch,
    chosen,
    first_reaching,
    is_over,
    times_faster,
)
from infra.evaluation.rectools.peer import Peer, PeerMissing, environment
from infra.evaluation.rectools.split import ndcg_of_lists, write_events, write_histories
from infra.evaluation.task import Task
from infra.evaluation.walk import walk
from ray_jobs.encoders.fit import tiny

ITEMS, USERS, EACH = 30, 12, 10
TEXTS = np.random.default_rng(1).normal(size=(ITEMS, 24)).astype(np.float32)

STUB = """
import json, sys
events, model, setting, seed = sys.argv[1:]
answers, number, kept = json.loads(setting), 0, 0
print(json.dumps({"stub": seed}), flush=True)
for line in sys.stdin:
    command, _, path = line.strip().partition(" ")
    number += command == "epoch"
    if command == "keep":
        kept = number
    if command == "restore":
        number = kept
    if command == "epoch" and answers.get("ends_after") == number:
        sys.exit("out of memory")
    answer = {"epoch": number, "wall_s": 2.0, "cpu_s": 1.0} if command == "epoch" else command
    if command == "lists":
        known = {}
        for user, item, row in (each.split(",") for each in open(path).read().split()[1:]):
            known.setdefault(int(user), []).append(item)
        answer = [[answers[",".join(known[user])], number % 2] for user in sorted(known)]
        answer[0] = []
    print(json.dumps(answer), flush=True)
"""
"""Answers as the worker does, and knows what comes after each history but the first one asked; then
comes item 1 where its weights are of an odd epoch, else 0."""


def rated() -> Interactions:
    rng = np.random.default_rng(0)
    events = [
        (user, item, user * DAY_MS + step * 3_600_000 * (1 + user % 3))
        for user in range(USERS)
        for step, item in enumerate(rng.choice(ITEMS, EACH, replace=False))
    ]
    columns = np.array(events, np.int64).T
    values = rng.integers(1, 6, len(events)).astype(np.float32)
    return from_columns("rated", ["-"] * ITEMS, *columns, "rating", values)


@pytest.fixture(scope="module")
def task() -> Task:
    return leave_one_out(rated())


def curve(*figures: tuple[float, float], second_s: float = 1.0) -> list[Point]:
    """Of (validation, test), an epoch a CPU second and two by the clock."""
    return [
        Point(epoch, 2 * second_s * epoch, second_s * epoch, validation, test)
        for epoch, (validation, test) in enumerate(figures, start=1)
    ]


@pytest.fixture
def setting(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Of the stub, which is there instead of RecTools: the items of a history -> the next one."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(peers, "WORKER", stub)
    monkeypatch.setattr(transformers, "environment", lambda folder: Path(sys.executable))
    items_E = task.log.interactions.items_E
    asked = Asked.of(task)
    return {
        ",".join(str(item) for item in items_E[question.history].tolist()): int(
            question.relevant[0]
        )
        for part in (asked.validation, asked.test)
        for _, questions in part.steps
        for question in questions
    }


def test_only_what_is_learned_goes_over_in_order_and_histories_by_number(
    task: Task, tmp_path: Path
) -> None:
    ((lesson, questions),) = list(task.steps)
    events = task.log.interactions
    write_events(tmp_path / "events.csv", task.log, lesson.rows)
    rows = list(csv.DictReader((tmp_path / "events.csv").open(encoding="utf-8")))
    assert set(rows[0]) == {"user", "item", "row"}
    assert [int(row["row"]) for row in rows] == lesson.rows.tolist()
    assert [int(row["user"]) for row in rows] == events.users_E[lesson.rows].tolist()
    write_histories(tmp_path / "asked.csv", task.log, [asked.history for asked in questions])
    rows = list(csv.DictReader((tmp_path / "asked.csv").open(encoding="utf-8")))
    for number, question in enumerate(questions):
        known = [int(row["item"]) for row in rows if int(row["user"]) == number]
        assert known == events.items_E[question.history].tolist()
        assert int(question.relevant[0]) not in known
    with pytest.raises(ValueError, match="history 1 is empty"):
        write_histories(tmp_path / "asked.csv", task.log, [lesson.rows, lesson.rows[:0]])


def test_a_list_is_scored_by_the_place_of_the_answer() -> None:
    answers = np.array([4, 5])
    assert ndcg_of_lists(answers, [[4], [5]]) == 1.0
    assert ndcg_of_lists(answers, [[9, 4], [8, 5]]) == pytest.approx(1 / np.log2(3))
    assert ndcg_of_lists(answers, [[4], []]) == 0.5
    assert ndcg_of_lists(answers, [[4], [*range(10, 20), 5]]) == 0.5  # in place 11
    assert ndcg_of_lists(answers[:0], []) == 0.0
    with pytest.raises(ValueError, match="zip"):
        ndcg_of_lists(answers, [[4]])


def test_a_peer_trains_epoch_by_epoch_and_its_seconds_add_up(
    task: Task, setting: dict[str, int], tmp_path: Path
) -> None:
    with Course(Path(sys.executable), task, setting, 7, tmp_path / "peer") as peer:
        assert peer.versions == {"stub": "7"}
        peer.epoch()
        second = peer.epoch()
    assert (second.epoch, second.wall_s, second.cpu_s) == (2, 4.0, 2.0)
    users = task.log.interactions.user_count
    assert second.validation == second.test == pytest.approx(1 - 1 / users)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"epoch": 3, "wall_s": 1, "cpu_s": 1}', "epoch 3, expected 1"),
        ('{"epoch": 1}', "wall_s"),
        ("no JSON", "Expecting value"),
    ],
)
def test_another_answer_than_an_epoch_is_refused(
    task: Task, setting: dict[str, int], tmp_path: Path, answer: str, said: str
) -> None:
    (tmp_path / "stub.py").write_text(f"print('{{}}', flush=True); input(); print({answer!r})")
    rows = np.arange(5)
    with (
        Peer(Path(sys.executable), task.log, rows, {}, 0, tmp_path / "peer") as peer,
        pytest.raises(PeerMissing, match=said),
    ):
        peer.train()


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ("[[1]]", "1 lists for 2"),
        ("[[1], [-1]]", "items must lie"),
        ('{"no": "lists"}', "valid list"),
    ],
)
def test_lists_that_do_not_fit_what_was_asked_are_refused(
    task: Task, setting: dict[str, int], tmp_path: Path, lists: str, said: str
) -> None:
    (tmp_path / "stub.py").write_text(f"print('{{}}', flush=True); input(); print({lists!r})")
    rows = np.arange(5)
    with (
        Peer(Path(sys.executable), task.log, rows, {}, 0, tmp_path / "peer") as peer,
        pytest.raises(PeerMissing, match=said),
    ):
        peer.lists([rows, rows])


def test_a_transformer_of_the_table_lists_what_its_best_epoch_did(
    task: Task, setting: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers, "SETTINGS", {"SASRecModel": [setting]})
    ranker = transformers.Transformer("SASRecModel", 7, tmp_path, days=84)
    answers = walk(task, ranker)
    missed = np.count_nonzero(answers.ndcg_Q != 1)
    assert missed == 1
    assert answers.ndcg_Q.max() == 1
    assert answers.fit_s >= 1 + transformers.PATIENCE  # a second an epoch, and none was better
    assert ranker.choice.startswith("epoch 1; ")
    # Of the weights that were kept: item 1, where it may be listed at all.
    assert set(answers.lists_QK[:, 1].tolist()) == {1, -1}


def test_a_transformer_that_cannot_be_had_says_so(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(folder: Path) -> Path:
        raise PeerMissing("pip fails", hint="try it")

    monkeypatch.setattr(transformers, "environment", missing)
    with pytest.raises(NotHere, match="pip fails"):
        walk(task, transformers.Transformer("BERT4RecModel", 0, tmp_path, days=84))


def test_a_peer_that_ends_is_told_with_what_it_said(
    task: Task, setting: dict[str, int], tmp_path: Path
) -> None:
    ends = {**setting, "ends_after": 2}
    with Course(Path(sys.executable), task, ends, 0, tmp_path / "peer") as peer:
        peer.epoch()
        with pytest.raises(PeerMissing, match="out of memory"):
            peer.epoch()


def test_without_rectools_there_is_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip that fails: no environment is left that looks finished, and nothing is measured."""

    class Builder:
        @staticmethod
        def create(folder: Path, with_pip: bool, clear: bool) -> None:
            python = folder / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text("#!/bin/sh\necho 'no matching distribution' >&2\nexit 1\n")
            python.chmod(python.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setattr(peers, "venv", Builder)
    monkeypatch.setenv("MOONLARK_STATE_DIR", str(tmp_path))
    with pytest.raises(SystemExit, match="no matching distribution"):
        bench.measure("small")
    assert not (tmp_path / "rectools" / "moonlark-requirements.txt").exists()


def test_an_environment_is_made_once_and_again_for_other_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    class Builder:
        @staticmethod
        def create(folder: Path, with_pip: bool, clear: bool) -> None:
            made.append(folder)
            python = folder / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.write_text("#!/bin/sh\nexit 0\n")
            python.chmod(python.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setattr(peers, "venv", Builder)
    folder = tmp_path / "rectools"
    assert environment(folder) == environment(folder) == folder / "bin" / "python"
    assert len(made) == 1
    monkeypatch.setattr(peers, "RECTOOLS", "rectools[torch]==0.20.0")
    environment(folder)
    assert len(made) == 2


def test_our_epochs_end_at_the_weights_that_the_night_would_learn(
    task: Task, tmp_path: Path
) -> None:
    recipe = replace(tiny(), epochs=2)
    seen: list[int] = []
    points = train(recipe, task, TEXTS, lambda point: seen.append(point.epoch))
    assert [point.epoch for point in points] == seen == [1, 2]
    assert 0 < points[0].cpu_s < points[1].cpu_s
    assert task.validation is not None
    shipped = Moonlark(recipe, TEXTS, tmp_path)  # its lesson there has nothing held out either
    assert points[-1].validation == walk(task.validation, shipped).ndcg_Q.mean()


def test_the_epoch_is_chosen_by_validation_the_first_of_equals() -> None:
    assert chosen(curve((0.1, 0.5), (0.3, 0.2), (0.3, 0.9))).epoch == 2
    with pytest.raises(ValueError, match="no epoch"):
        chosen([])


def test_time_to_a_figure_is_that_of_the_first_epoch_with_at_least_so_much() -> None:
    theirs = curve((0, 0.02), (0, 0.08), (0, 0.05), second_s=10)
    ours = curve((0, 0.08), (0, 0.12))
    found = first_reaching(theirs, 0.05)
    assert found is not None
    assert found.epoch == 2
    assert times_faster(ours, theirs, 0.08, "cpu") == 20.0
    assert times_faster(ours, theirs, 0.08, "wall") == 20.0
    assert times_faster(ours, theirs, 0.1, "cpu") is None  # they do not get there
    assert times_faster(theirs, ours, 0.1, "cpu") is None
    assert first_reaching([], 0.0) is None


def test_training_ends_at_its_length_or_when_validation_stays_behind() -> None:
    rising = curve((0.1, 0), (0.2, 0), (0.3, 0))
    assert not is_over([], most=1, patience=1)
    assert not is_over(rising, most=4, patience=1)
    assert is_over(rising, most=3, patience=1)
    falling = curve((0.3, 0), (0.2, 0), (0.3, 0))
    assert is_over(falling, most=9, patience=2)
    assert not is_over(falling, most=9, patience=3)


def test_a_stopwatch_leaves_out_what_happens_while_it_stands() -> None:
    clock = Stopwatch()
    clock.start()
    clock.stop()
    before = clock.cpu_s
    sum(range(1_000_000))
    assert clock.cpu_s == before
    clock.start()
    sum(range(1_000_000))
    clock.stop()
    assert clock.cpu_s > before


def test_a_figure_that_we_do_not_reach_fails_the_goal(tmp_path: Path) -> None:
    theirs = curve((0.05, 0.06), (0.09, 0.08), second_s=10)
    peers_curves = {"slow": theirs, "better": curve((0.3, 0.2))}
    ours = curve((0.1, 0.07), (0.2, 0.11))
    found = bench.report(bench.Curves(ours, peers_curves, 8.0, {"rectools": "0"}), tmp_path)
    ratios = {ratio.name: ratio for ratio in found.ratios}
    assert ratios["faster than slow, CPU"].value == 10.0
    assert ratios["faster than slow, CPU"].is_reached
    assert ratios["faster than slow, CPU, texts read first"].value == 2.0
    assert ratios["faster than better, CPU"].value == 0.0
    assert not ratios["faster than better, CPU"].is_reached
    assert ("0.2000", "moonlark", "", "not reached", "", "") in found.tables[0].rows
    assert json.loads(found.model_dump_json())["plots"] == [
        path.name for path in tmp_path.iterdir()
    ]
