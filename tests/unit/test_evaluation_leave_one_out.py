"""The leave-one-out table: the protocol word by word, on made data whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from infra.cli import evaluate as evaluate_command
from infra.cli.main import app
from infra.evaluation.errors import NoSuchData, NotHere, TooLittleData, UnknownModel
from infra.evaluation.evaluate import Request, as_json, evaluate
from infra.evaluation.interactions import LONG_AGO_MS, Interactions, from_columns
from infra.evaluation.leave_one_out import leave_one_out, roles
from infra.evaluation.load import load_interactions
from infra.evaluation.rankers.moonlark import Moonlark
from infra.evaluation.task import Lesson, Question, Task
from infra.evaluation.walk import walk
from ray_jobs.encoders.fit import tiny

ITEMS, LENGTH, USERS = 20, 7, 80
RARE = ITEMS


def circle() -> Interactions:
    """User u goes around a circle of 20 items from item u on; one item is too rare to stay."""
    events = [
        (user, (user + step) % ITEMS, step) for user in range(USERS) for step in range(LENGTH)
    ]
    events += [(0, RARE, 99), (1, 1, 100)]  # user 1 repeats item 1
    events += [(USERS, step, step) for step in range(4)]
    users, items, times = np.array(events, np.int64).T
    texts = [*(f"item {item}" for item in range(ITEMS)), "rare"]
    return from_columns("circle", texts, users, items, times, "view")


@pytest.fixture(scope="module")
def task() -> Task:
    return leave_one_out(circle())


def asked(task: Task) -> dict[int, Question]:
    return {question.user: question for _, questions in task.steps for question in questions}


def test_the_last_event_is_the_test_and_the_one_before_it_validation(task: Task) -> None:
    events = task.log.interactions
    assert events.user_count == USERS  # the last one has too few events
    assert events.item_count == ITEMS  # "rare" has too few events
    of_first = events.users_E == 0  # items 0 .. 6
    assert events.items_E[of_first].tolist() == list(range(LENGTH))
    assert roles(events)[of_first].tolist() == [0] * 5 + [1, 2]
    questions = asked(task)
    assert [questions[user].relevant.tolist() for user in (0, 1)] == [[6], [7]]  # no repeat


def test_training_events_teach_and_validation_is_held_out(task: Task) -> None:
    ((lesson, _),) = list(task.steps)
    events = task.log.interactions
    assert len(lesson.rows) == USERS * (LENGTH - 2)
    assert len(lesson.held_out) == USERS
    assert not set(lesson.rows.tolist()) & set(lesson.held_out.tolist())
    assert task.validation is not None
    validated = asked(task.validation)[0]
    assert validated.relevant.tolist() == [5]
    assert events.items_E[validated.history].tolist() == [0, 1, 2, 3, 4]


def test_what_was_seen_before_the_test_is_history_and_not_listed(task: Task) -> None:
    question = asked(task)[0]
    assert question.seen.tolist() == list(range(6))
    assert question.candidates is None  # all items are ranked

    class SeenFirst:
        def fit(self, log: object, lesson: Lesson) -> None: ...

        def scores(self, log: object, question: Question) -> np.ndarray:
            scores = np.zeros(ITEMS)
            scores[question.seen] = 1.0
            return scores

    lists = walk(task, SeenFirst()).lists_QK
    assert not any(
        set(lists[row]) & set(q.seen.tolist()) for row, q in enumerate(asked(task).values())
    )


def test_moonlark_learns_the_circle_through_the_fold_in_service(task: Task, tmp_path: Path) -> None:
    texts = np.random.default_rng(0).normal(size=(ITEMS, 24)).astype(np.float32)
    said: list[str] = []
    model = Moonlark(tiny(), texts, tmp_path, said.append)
    answers = walk(task, model)
    assert answers.ndcg_Q.mean() > 0.8
    assert said
    said.clear()
    again = walk(task, Moonlark(tiny(), texts, tmp_path, said.append))
    assert not said  # the weights of the first training were read
    assert np.array_equal(again.lists_QK, answers.lists_QK)


def test_the_json_has_the_documented_keys() -> None:
    said: list[str] = []
    request = Request(models=("popularity", "ease", "sequential-knn"), seeds=(3,), say=said.append)
    tables = evaluate(circle(), request)
    result = as_json(circle(), request, tables)
    assert (result["protocol"], result["data"], result["seed"]) == ("leave-one-out", "circle", 3)
    keys = {"ndcg@10", "hr@10", "mrr", "coverage@10", "fit_s", "interval", "warm", "cold"}
    assert keys <= result["models"]["popularity"].keys()
    assert result["models"]["ease"]["difference"].keys() == {"mean", "low", "high", "is_real"}
    assert result["models"]["sequential-knn"]["difference"]["high"] < 0  # popularity gains less
    assert json.loads(json.dumps(result)) == result
    assert said


def test_lists_are_as_long_as_asked_for(tmp_path: Path) -> None:
    """Of 20 items each user saw 6, so that lists of 14 hold all that is left."""
    at = {k: Request(models=("popularity",), k=k, kept=tmp_path) for k in (1, 10, 14)}
    figures = {}
    for k, request in at.items():
        (table,) = evaluate(circle(), request)
        assert table.rows[0].runs[0].lists_QK.shape[1] == k
        (figures[k],) = table.figures().values()
        assert {f"ndcg@{k}", f"hr@{k}", f"coverage@{k}"} <= figures[k].keys()
        assert as_json(circle(), request, [table])["k"] == k
    assert figures[1]["hr@1"] < figures[10]["hr@10"] < figures[14]["hr@14"] == 1
    assert figures[1]["ndcg@1"] == figures[1]["hr@1"]
    assert figures[1]["mrr"] == figures[14]["mrr"]  # of the whole list


def test_what_cannot_be_evaluated_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="popularity"):
        evaluate(circle(), Request(models=("popular",)))
    with pytest.raises(NotHere, match="time of publication"):
        evaluate(circle(), Request(models=("newest",)))
    with pytest.raises(NotHere, match="text vectors"):
        evaluate(circle(), Request(models=("bert-mean",)))
    with pytest.raises(NoSuchData, match="no such folder"):
        load_interactions(str(tmp_path / "none"))
    with pytest.raises(NoSuchData, match="0 files items"):
        load_interactions(str(tmp_path))
    one = np.zeros(1, np.int64)
    with pytest.raises(TooLittleData, match="0 users"):
        leave_one_out(from_columns("few", ["a"], one, one, one, "view"))


def test_a_folder_reads_as_what_was_written(tmp_path: Path) -> None:
    made = circle()
    folder = tmp_path / "data"
    folder.mkdir()
    items = [{"item_id": f"i{row}", "title": text} for row, text in enumerate(made.texts_I)]
    events = [
        {
            "user_id": f"u{made.users_E[row]}",
            "item_id": f"i{made.items_E[row]}",
            "kind": "view",
            "occurred_at": 1_700_000_000_000 + int(made.at_ms_E[row]),
        }
        for row in range(len(made.users_E))
    ]
    for name, rows in (("items", items), ("events", events)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    read = load_interactions(str(folder))
    assert read.texts_I == made.texts_I
    assert np.array_equal(read.items_E, made.items_E)
    assert len(np.unique(read.users_E)) == made.user_count
    assert read.published_ms_I is None
    items[0] |= {"published_at": 1_700_000_000_000}
    lines = "".join(json.dumps(row) + "\n" for row in items)
    (folder / "items.jsonl").write_text(lines, encoding="utf-8")
    dated = load_interactions(str(folder)).published_ms_I
    assert dated is not None
    assert dated[0] == 1_700_000_000_000
    assert set(dated[1:].tolist()) == {LONG_AGO_MS}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--until", "2024-01-01"], "--until is of a replay"),
        (["--variant", "live"], "--variant is of a replay"),
        (["--http", "3"], "--http is of a replay"),
        (["--seed", "0,0"], "each number once"),
        (["--seed", "one"], "numbers"),
        (["--json", "/proc/none/figures.json"], "/proc/none"),
        (["--plot", "/proc/none"], "/proc/none"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_command, "evaluate", None)
    monkeypatch.setattr(evaluate_command, "require_matplotlib", lambda: None)  # an extra
    monkeypatch.setattr(evaluate_command, "load_interactions", lambda *_: circle())
    monkeypatch.setenv("MOONLARK_STATE_DIR", str(tmp_path))
    told = CliRunner().invoke(app, ["evaluate", *arguments])
    assert told.exit_code in (1, 2)
    assert said in told.output + str(told.exception)


def test_a_measuring_that_fails_leaves_no_file_and_no_other_figures_than_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no figures today")

    monkeypatch.setattr(evaluate_command, "evaluate", fails)
    monkeypatch.setattr(evaluate_command, "load_interactions", lambda *_: circle())
    monkeypatch.setenv("MOONLARK_STATE_DIR", str(tmp_path))
    new, kept = tmp_path / "new.json", tmp_path / "kept.json"
    kept.write_text("{}")
    for path in (new, kept):
        told = CliRunner().invoke(app, ["evaluate", "--json", str(path)])
        assert "no figures today" in told.output + str(told.exception)
    assert not new.exists()
    assert kept.read_text() == "{}"
