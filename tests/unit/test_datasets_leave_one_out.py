"""The leave-one-out table: the protocol word by word, on made data whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pytest

from infra.evaluation.errors import NoSuchData, TooLittleData, UnknownModel
from infra.evaluation.interactions import Interaction, Interactions, load_interactions
from infra.evaluation.leave_one_out import measure, run_leave_one_out
from infra.evaluation.models import Moonlark, Popularity
from infra.evaluation.split import Split, leave_one_out
from ray_jobs.encoders.fit import tiny

ITEMS, LENGTH, USERS = 20, 7, 80


def circle() -> Interactions:
    """User u goes around a circle of 20 items from item u on; one item is too rare to stay."""
    events = [
        Interaction(f"u{user}", f"i{(user + step) % ITEMS}", "view", None, step)
        for user in range(USERS)
        for step in range(LENGTH)
    ]
    events.append(Interaction("u0", "rare", "view", None, 99))
    events.append(Interaction("u1", "i1", "view", None, 100))  # a repeat
    events += [Interaction("short", f"i{step}", "view", None, step) for step in range(4)]
    texts = {f"i{item}": f"item {item}" for item in range(ITEMS)} | {"rare": "rare"}
    return Interactions(texts, tuple(sorted(events, key=lambda event: event.occurred_at_ms)))


def write(folder: Path, interactions: Interactions) -> Path:
    folder.mkdir()
    items = [{"item_id": item, "title": text} for item, text in interactions.texts.items()]
    events = [
        {
            "user_id": event.user_id,
            "item_id": event.item_id,
            "kind": event.kind,
            "occurred_at": 1_700_000_000_000 + event.occurred_at_ms,
        }
        for event in interactions.events
    ]
    for name, rows in (("items", items), ("events", events)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(circle(), "circle")


def test_the_last_event_is_the_test_and_the_one_before_it_validation(split: Split) -> None:
    assert len(split.offsets_U1) - 1 == USERS  # "short" has too few events
    assert len(split.texts_I) == ITEMS  # "rare" has too few events
    first = slice(0, LENGTH)  # u0: i0 .. i6
    assert split.items_E[first].tolist() == list(range(LENGTH))
    assert split.role_E()[first].tolist() == ["train"] * 5 + ["valid", "test"]
    assert split.test_items_U[:2].tolist() == [6, 7]  # u1's repeat of i1 is no event


def test_what_was_seen_before_the_test_is_not_ranked(split: Split) -> None:
    seen = split.seen()
    assert np.flatnonzero(seen[0]).tolist() == list(range(6))
    assert not seen[np.arange(USERS), split.test_items_U].any()


def test_a_model_that_knows_the_answer_gets_one(split: Split) -> None:
    scores = np.zeros((USERS, ITEMS))
    scores[np.arange(USERS), split.test_items_U] = 1.0
    figures = measure(split, scores)
    assert (figures["ndcg@10"], figures["hr@10"], figures["mrr"]) == (1.0, 1.0, 1.0)


def test_popularity_counts_training_events_only(split: Split) -> None:
    model = Popularity()
    model.fit(split, print)
    assert model.scores(split)[0].sum() == USERS * (LENGTH - 2)


def test_moonlark_learns_the_circle_through_the_fold_in_service(split: Split) -> None:
    rng = np.random.default_rng(0)
    model = Moonlark(tiny(), lambda texts: rng.normal(size=(len(texts), 24)).astype(np.float32))
    model.fit(split, lambda line: None)
    assert measure(split, model.scores(split))["ndcg@10"] > 0.8


def test_the_table_has_the_documented_keys(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", circle())
    said: list[str] = []
    table = run_leave_one_out(str(folder), ["popularity"], 3, said.append)
    assert table.keys() == {"protocol", "data", "seed", "models"}
    assert (table["protocol"], table["data"], table["seed"]) == ("leave-one-out", str(folder), 3)
    keys = {"ndcg@10", "hr@10", "mrr", "coverage@10", "fit_s"}
    assert table["models"]["popularity"].keys() == keys
    assert json.loads(json.dumps(table)) == table
    assert said


def test_a_folder_reads_as_what_was_written(tmp_path: Path) -> None:
    read = load_interactions(str(write(tmp_path / "data", circle())))
    assert read.texts == circle().texts
    expected = [(e.user_id, e.item_id) for e in circle().events]
    assert [(e.user_id, e.item_id) for e in read.events] == expected


def test_what_cannot_be_evaluated_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="popularity"):
        run_leave_one_out("ml-100k", ["popular"], 0)
    with pytest.raises(NoSuchData, match="no such folder"):
        load_interactions(str(tmp_path / "none"))
    with pytest.raises(NoSuchData, match="0 files items"):
        load_interactions(str(tmp_path))
    few = Interactions({"a": "a"}, (Interaction("u", "a", "view", None, 1),))
    with pytest.raises(TooLittleData, match="0 users"):
        leave_one_out(few, "few")
