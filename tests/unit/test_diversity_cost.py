"""What diversity costs, in figures: the lists are those of the API, and the page keeps the rest."""

from pathlib import Path

import numpy as np
import pytest

from infra.bench import diversity_cost
from infra.bench.accuracy import TITLES
from infra.bench.accuracy_page import DIVERSITY_TITLES, TITLE, page_with
from infra.bench.diversity_cost import DIALS, diverse, section, walked
from infra.evaluation.interactions import Interactions, from_columns
from infra.evaluation.leave_one_out import leave_one_out
from infra.evaluation.log import Log
from infra.evaluation.rankers.moonlark import Moonlark
from infra.evaluation.task import Floats, Lesson, Question
from ray_jobs.encoders.fit import tiny

ITEMS = 24


def twins() -> Interactions:
    """Items 2 i and 2 i + 1 are alike; users take what they like of both."""
    rng = np.random.default_rng(0)
    events = [
        (user, item, user * 100 + step)
        for user in range(60)
        for step, item in enumerate(rng.choice(ITEMS, 8, replace=False))
    ]
    users, items, times = np.array(events, np.int64).T
    return from_columns("twins", ["-"] * ITEMS, users, items, times, "view")


TEXTS = np.repeat(np.random.default_rng(1).normal(size=(ITEMS // 2, 24)), 2, axis=0)


class ByNumber:
    """The first items are the best; nothing is learned but the items' vectors."""

    def __init__(self, cosine: Moonlark) -> None:
        self._cosine = cosine

    def fit(self, log: Log, lesson: Lesson) -> None:
        self._cosine.fit(log, lesson)

    def scores(self, log: Log, question: Question) -> Floats:
        return np.linspace(1, 0, ITEMS)


def test_a_dial_moves_what_is_alike_down() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    scores = np.array([0.9, 0.89, 0.8, 0.79, 0.7, -np.inf])
    assert diverse(scores, vectors, 0.0)[:5].tolist() == [0, 1, 2, 3, 4]
    assert diverse(scores, vectors, 0.5)[:3].tolist() == [0, 2, 4]
    assert diverse(scores, vectors, 0.5)[5:].tolist() == [-1] * 5  # what may not be listed


def test_each_dial_has_a_row_and_diversity_grows(tmp_path: Path) -> None:
    task = leave_one_out(twins())
    texts = TEXTS.astype(np.float32)
    cosine = Moonlark(tiny(), texts, tmp_path)
    found = walked(task, ByNumber(cosine), cosine)
    assert list(found) == list(DIALS)
    text = section("Twins", task, found, texts)
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| 0")]
    spread = [float(row[4]) for row in rows]
    assert spread[0] < spread[-1]
    assert rows[0][3].strip() == ""
    assert "to" in rows[-1][3]


def test_the_page_keeps_its_other_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    title = DIVERSITY_TITLES["ml-100k"]
    path = tmp_path / "ACCURACY.md"
    first = TITLES[0]
    path.write_text(page_with({first: f"{TITLE}{first}\n\nkept\n"}, "", TITLES))
    monkeypatch.setattr(diversity_cost, "PAGE", path)
    monkeypatch.setattr(
        diversity_cost, "_measured", lambda title, source, state: f"{TITLE}{title}\n\nnew\n"
    )
    monkeypatch.setenv("MOONLARK_STATE_DIR", str(tmp_path))
    diversity_cost.main([])
    told = path.read_text()
    assert "kept" in told
    assert f"{TITLE}{title}\n\nnew" in told
    assert DIVERSITY_TITLES["ifdb"] not in told  # no --data
