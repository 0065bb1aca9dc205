"""ACCURACY.md: what the page says comes from the figures, and a run that breaks off goes on."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from infra.bench.accuracy import PLANS, is_here, measured, not_measured
from infra.bench.accuracy_page import Section, page
from infra.evaluation import registry
from infra.evaluation.answers_file import read_answers
from infra.evaluation.errors import NotHere
from infra.evaluation.evaluate import Request, as_json, evaluate
from infra.evaluation.interactions import DAY_MS, Interactions, ReplayRule, from_columns
from infra.evaluation.rankers.popularity import Popularity
from infra.evaluation.rectools.peer import PeerMissing
from infra.evaluation.registry import MODELS, Entry
from infra.evaluation.shelf_digest import shelf_digest
from ray_jobs import ranking
from ray_jobs.encoders.fit import tiny


def made() -> Interactions:
    rng = np.random.default_rng(0)
    users, items = np.arange(400) % 20, rng.integers(30, size=400)
    rule = ReplayRule(cut_ms=30 * DAY_MS, validation_days=5)
    times = np.arange(400) * DAY_MS // 10
    texts = [f"item {item}" for item in range(30)]
    return from_columns("made", texts, users, items, times, "view", rule=rule)


def test_every_plan_names_models_that_exist() -> None:
    assert all(name in MODELS for plan in PLANS for name in plan.models)
    assert {"movielens", "ifdb", "online_retail"} == {
        "movielens" if plan.data == "ml-100k" else plan.data for plan in PLANS
    }


def test_without_a_data_folder_only_movielens_is_measured(tmp_path: Path) -> None:
    others = [plan for plan in PLANS if plan.data != "ml-100k"]
    assert others
    assert all(measured(plan, tmp_path, tmp_path, None) is None for plan in others)
    assert all(measured(plan, None, tmp_path, None) is None for plan in others)


def test_the_page_shows_each_model_with_its_interval(tmp_path: Path) -> None:
    request = Request(models=("ease", "popularity"), protocol="replay")
    result = as_json(made(), request, evaluate(made(), request))
    plot = tmp_path / "accuracy" / "made.png"
    both = Request(
        models=("sequential-knn",), protocol="replay", variants=("nightly", "nightly+live")
    )
    variants = as_json(made(), both, evaluate(made(), both))
    text = page(
        [
            Section("Made", "moonlark evaluate", "12 epochs", result, (plot,)),
            Section("Two", "it", "-", variants, (), ("als",)),
        ],
        datetime(2026, 1, 2, tzinfo=UTC),
        *(tmp_path, "", ("Made", "Two")),
    )
    assert text.count("2026-01-02") == 2
    row = next(line for line in text.splitlines() if line.startswith("| popularity"))
    assert f"{result['models']['popularity']['ndcg@10']:.4f}" in row
    assert f"{result['models']['popularity']['difference']['low']:+.4f}" in row
    assert "(accuracy/made.png)" in text
    assert "Not measured yet: als." in text
    assert f"{variants['live_feedback']['sequential-knn']['mean']:+.4f}" in text


def test_what_is_not_measured_again_stays_as_it_was(tmp_path: Path) -> None:
    request = Request(models=("ease",), protocol="replay")
    result = as_json(made(), request, evaluate(made(), request))
    titles = ("One", "Two", "Three")

    def at(day: int, before: str, *measured: str) -> str:
        sections = [Section(title, "it", "-", result, ()) for title in measured]
        return page(sections, datetime(2026, 1, day, tzinfo=UTC), tmp_path, before, titles)

    first = at(2, "", "One", "Three")
    assert at(3, first) == first
    second = at(4, first, "Two", "Three")
    told = [line for line in second.splitlines() if line.startswith("## ") or "questions" in line]
    assert [line[3:] for line in told[::2]] == list(titles)
    assert ["2026-01-04" in line for line in told[1::2]] == [False, True, True]


def test_answers_by_other_code_are_not_taken(tmp_path: Path) -> None:
    shelf = ModuleType("shelf")
    shelf.__path__ = [str(tmp_path)]
    (tmp_path / "a.py").write_text("one = 1")
    before = shelf_digest(shelf)
    assert shelf_digest(shelf) == before
    (tmp_path / "a.py").write_text("one = 2")
    assert shelf_digest(shelf) != before
    ours = [name for name, entry in MODELS.items() if entry.is_ours]
    assert ours == ["moonlark", "moonlark-hourly", "moonlark-no-cosine", "moonlark-cosine"]


def test_answers_of_another_recipe_are_not_taken(tmp_path: Path) -> None:
    def kept(epochs: int, days: int) -> set[str]:
        request = Request(
            models=("moonlark-cosine", "ease"),
            protocol="replay",
            recipe=lambda seed: replace(tiny(seed), epochs=epochs),
            train_days=days,
            embed=lambda texts: np.ones((len(texts), 8), np.float32),
            cache=tmp_path / "cache",
            kept=tmp_path / "kept",
        )
        evaluate(made(), request)
        return {path.name for path in request.kept.iterdir()} if request.kept else set()

    first = kept(1, 84)
    assert kept(1, 84) == first
    second = kept(2, 84)
    assert len(second - first) == 1  # EASE has no epochs
    assert len(kept(2, 7) - second) == 1


def test_what_cannot_be_had_is_said_before_anything_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path) -> Path:
        raise PeerMissing("pip fails", hint="try it")

    monkeypatch.setattr(registry, "environment", fails)
    kept = tmp_path / "kept"
    models = ("popularity", "sasrec-rectools")
    with pytest.raises(NotHere, match="pip fails"):
        evaluate(made(), Request(models=models, protocol="replay", cache=tmp_path, kept=kept))
    assert not kept.exists()
    assert [name for name in models if is_here(name, made(), tmp_path)] == ["popularity"]
    only_kept = Request(models=models, protocol="replay", kept=kept, only_kept=True)
    (table,) = evaluate(made(), only_kept)  # which learns nothing, and needs nothing
    assert not table.rows


def test_a_model_that_lacks_in_one_variant_is_told(tmp_path: Path) -> None:
    evaluate(made(), Request(models=("popularity", "ease"), protocol="replay", kept=tmp_path))
    both = Request(
        models=("popularity", "ease", "item-knn"),
        protocol="replay",
        variants=("nightly", "nightly+live"),
        kept=tmp_path,
        only_kept=True,
    )
    alone = Request(models=("popularity",), protocol="replay", variants=("nightly",), kept=tmp_path)
    evaluate(made(), alone)
    tables = evaluate(made(), both)
    assert not_measured(both.models, tables) == ("ease (nightly)", "item-knn")


def test_in_a_replay_only_our_own_models_are_run_with_each_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = Entry(lambda setting: Popularity(7), seeded=True)
    ours = Entry(lambda setting: Popularity(), seeded=True, is_ours=True, shelves=(ranking,))
    monkeypatch.setattr(registry, "MODELS", {"theirs": theirs, "ours": ours})
    for repeated, runs in ((True, [2, 2]), (False, [1, 2])):
        request = Request(models=("theirs", "ours"), seeds=(0, 1), repeat_baselines=repeated)
        (table,) = evaluate(made(), request)
        assert [len(row.runs) for row in table.rows] == runs


def test_answers_of_a_run_before_are_not_asked_again(tmp_path: Path) -> None:
    request = Request(models=("popularity-7d",), kept=tmp_path)
    (first,) = evaluate(made(), request)
    (kept,) = tmp_path.iterdir()
    answers, _ = read_answers(kept)
    assert np.array_equal(answers.lists_QK, first.rows[0].runs[0].lists_QK)
    said: list[str] = []

    def refused(label: str, total: int) -> None:
        said.append(label)

    (again,) = evaluate(made(), Request(models=request.models, kept=tmp_path, bar=refused))  # type: ignore[arg-type]
    assert not said
    assert again.figures() == first.figures()
    two = Request(models=("popularity-7d", "ease"), kept=tmp_path, only_kept=True)
    (table,) = evaluate(made(), two)
    assert [row.name for row in table.rows] == ["popularity-7d"]  # ease was never measured
    with pytest.raises(TypeError):
        evaluate(made(), Request(models=request.models, bar=refused))  # type: ignore[arg-type]
