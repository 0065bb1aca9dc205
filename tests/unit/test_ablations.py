"""Rows of the ablation table: each trains, and changes what it says it changes."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.bench import ablations
from infra.bench.ablations_why import why
from infra.evaluation.ablations import texts, variants
from infra.evaluation.ablations.models import CountGate, SeedGates
from infra.evaluation.ablations.ranker import TorchCosine, Trained
from infra.evaluation.ablations.variants import OF_TEXTS, SHIPPED, VARIANTS, Variant
from infra.evaluation.errors import NotHere
from infra.evaluation.interactions import DAY_MS, Interactions, ReplayRule, from_columns
from infra.evaluation.leave_one_out import leave_one_out
from infra.evaluation.rankers.moonlark import Moonlark
from infra.evaluation.replay import replay
from infra.evaluation.task import Task
from ray_jobs.encoders.config import UserLSTMConfig
from ray_jobs.encoders.fit import tiny

ITEMS, USERS, EACH = 40, 30, 15
RECIPE = replace(tiny(), epochs=2)


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


TEXTS = np.random.default_rng(1).normal(size=(ITEMS, 24)).astype(np.float32)


def scores(variant: Variant, task: Task) -> np.ndarray:
    ranker = TorchCosine(variant, RECIPE, TEXTS, lambda line: None, {})
    ((lesson, questions),) = list(task.steps)
    ranker.fit(task.log, lesson)
    assert 0 <= ranker.validation <= 1
    return np.stack([ranker.scores(task.log, question) for question in questions])


@pytest.fixture(scope="module")
def task() -> Task:
    return leave_one_out(rated())


@pytest.fixture(scope="module")
def shipped(task: Task) -> np.ndarray:
    return scores(SHIPPED, task)


def test_the_shipped_row_is_what_ships(task: Task, shipped: np.ndarray, tmp_path: Path) -> None:
    fold = Moonlark(RECIPE, TEXTS, tmp_path)
    ((lesson, questions),) = list(task.steps)
    fold.fit(task.log, lesson)
    by_fold = np.stack([fold.scores(task.log, question) for question in questions])
    np.testing.assert_allclose(shipped, by_fold, atol=1e-4)


def test_in_a_replay_too_learned_once_and_histories_go_on(tmp_path: Path) -> None:
    old, late = rated(), 5
    # One more item among the others comes after the cut, and users take it: ordinals of what was
    # learned are no places in it.
    users = np.arange(24, USERS)
    published = np.zeros(ITEMS + 1, np.int64)
    published[late] = 25 * DAY_MS
    events = from_columns(
        "rated",
        ["-"] * (ITEMS + 1),
        np.concatenate([old.users_E, users]),
        np.concatenate([old.items_E + (old.items_E >= late), np.full(len(users), late)]),
        np.concatenate([old.at_ms_E, np.full(len(users), 26 * DAY_MS)]),
        "rating",
        np.concatenate([old.values_E, np.full(len(users), 4, np.float32)]),
        published_ms_I=published,
        rule=ReplayRule(cut_ms=20 * DAY_MS, validation_days=2),
    )
    task = replay(events, "nightly+live")
    texts = np.insert(TEXTS, late, TEXTS[0] + 1, axis=0)
    by_torch = TorchCosine(SHIPPED, RECIPE, texts, lambda line: None, {}, days=1_000)
    fold = Moonlark(RECIPE, texts, tmp_path, days=1_000)
    asked, results = 0, []
    for lesson, questions in task.steps:
        for ranker in (by_torch, fold):
            ranker.fit(task.log, lesson)
        results.append(by_torch._result)
        for question in questions:
            if len(question.history):
                asked += 1
                np.testing.assert_allclose(
                    *(ranker.scores(task.log, question) for ranker in (by_torch, fold)), atol=1e-4
                )
    assert asked > 50
    assert len(results) > 1
    assert all(result is results[0] for result in results)


@pytest.mark.parametrize("variant", VARIANTS[1:], ids=lambda variant: variant.name)
def test_a_row_changes_something(
    variant: Variant, task: Task, shipped: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "SAMPLE", 10)
    found = scores(variant, task)
    assert np.isfinite(found).all()
    is_same = np.allclose(found, shipped, atol=1e-5)
    assert is_same == ((variant.last or 0) >= EACH)  # nobody here has so many events


def test_the_correction_of_a_sample_is_a_row_of_its_own(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "SAMPLE", 10)
    corrected, plain = (v for v in VARIANTS if v.name.startswith("sampled"))
    assert not np.allclose(scores(corrected, task), scores(plain, task), atol=1e-5)


def test_nothing_kept_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablations, "load_interactions", lambda source, state_dir: rated())
    plan = ablations.Plan("Rated", "rated", VARIANTS[:2])
    assert ablations.table(plan, "rated", tmp_path, 1, True) == []


def test_the_output_gate_reads_the_cell() -> None:
    config = UserLSTMConfig(text_dim=3, dim=4, hidden=5)
    torch.manual_seed(0)
    model = SeedGates(config, np.zeros(1, np.int64))
    inputs_BLD = torch.randn(2, 3, 4)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    w_i, w_h, b_i, b_h = (getattr(model.lstm, name).detach().numpy() for name in names)
    w_c = model.output_of_cell.weight.detach().numpy()

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    h, c = np.zeros((2, 5)), np.zeros((2, 5))
    for step in range(3):
        x = inputs_BLD[:, step].numpy()
        i, f, g, _ = np.split(x @ w_i.T + h @ w_h.T + b_i + b_h, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        o = h @ np.split(w_h, 4)[3].T + np.split(b_i + b_h, 4)[3] + c @ w_c.T
        h = sigmoid(o) * np.tanh(c)
        with torch.no_grad():
            found = model.states(inputs_BLD)[:, step].numpy()
        np.testing.assert_allclose(found, h, atol=1e-5)


def test_a_gate_by_events_opens_with_them() -> None:
    config = UserLSTMConfig(text_dim=3, dim=4, hidden=5, residual_count=3)
    model = CountGate(config, np.array([0, 1, 10, 1000]))
    torch.nn.init.ones_(model.residual.weight)
    gates = model.residuals()[:, 0].tolist()
    assert gates[1] < gates[2] < gates[3] < 1


def test_the_page_is_made_of_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task
) -> None:
    """Measured once, then written again without measuring."""
    made: list[str] = []

    def ranker(variant: Variant, seed: int, bert_IT: np.ndarray, trained: Trained) -> TorchCosine:
        made.append(variant.name)
        return TorchCosine(variant, replace(RECIPE, seed=seed), bert_IT, lambda line: None, trained)

    plan = ablations.Plan("Rated", "rated", VARIANTS[:2])
    monkeypatch.setattr(ablations, "PLANS", (plan,))
    monkeypatch.setattr(ablations, "PAGE", tmp_path / "ABLATIONS.md")
    monkeypatch.setattr(ablations, "LEFT_ONE_OUT", (plan,))
    monkeypatch.setattr(ablations, "_ranker", ranker)
    monkeypatch.setattr(ablations, "_embed", lambda state_dir: lambda texts: TEXTS)
    monkeypatch.setattr(ablations, "load_interactions", lambda source, state_dir: rated())
    monkeypatch.setenv("MOONLARK_STATE_DIR", str(tmp_path))
    for arguments in (
        ["--data", str(tmp_path), "--seeds", "2"],
        ["--data", str(tmp_path), "--kept"],
    ):
        (tmp_path / "rated").mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "argv", ["ablations", *arguments])
        ablations.main()
    assert made == ["shipped", "shipped", "pooling: mean", "pooling: mean"]
    page = (tmp_path / "ABLATIONS.md").read_text()
    assert "| pooling | pooling: mean |" in page
    assert "What ships, and why" in page
    three = replace(plan, title="Three", seeds=3)
    assert ablations.table(three, "rated", tmp_path, 1, True) == []  # two of three were measured
    monkeypatch.setattr(sys, "argv", ["ablations", "--plans", "none of them"])
    ablations.main()
    assert (tmp_path / "ABLATIONS.md").read_text() == page
    assert len(OF_TEXTS) > 4


def test_what_beats_what_ships_on_validation_is_told_with_its_figures() -> None:
    rows = (
        "| | | NDCG@10 | by seed | more (95 %) | validation | fit s |",
        "|---" * 7 + "|",
        "|  | shipped | 0.1 | 0.1 |  | 0.1200 | 5 |",
        "| size | large | 0.2 | 0.2 | +0.01 (-0.01 to +0.02) (may be chance) | 0.1300 | 5 |",
        "| size | small | 0.3 | 0.3 | +0.20 (+0.10 to +0.30) | 0.1100 | 5 |",
        "| size | huge | 0.2 | 0.2 | +0.02 (+0.01 to +0.03) | 0.1400 | 5 |",
    )
    told = why({"Made": "\n".join(rows)})
    first = next(line for line in told.splitlines() if line.startswith("- Made, 0.1200"))
    assert first.index("huge 0.1400") < first.index("large 0.1300")
    assert "small" not in first
    assert "differ really from what ships: huge (Made)." in told


@pytest.mark.skipif(texts.snowballstemmer is None, reason="the extra [evaluation] is not installed")
def test_cleanings_leave_words() -> None:
    text = "The boats were running, westward. And it was late!"
    found = {name: texts.cleaned([text], name)[0] for name in texts.CLEANINGS}
    assert found["shipped"] == text
    assert found["without stop words"] == "boats running, westward. late!"
    assert found["without punctuation"] == "the boats were running westward and it was late"
    assert found["stemmed"].split()[:4] == ["the", "boat", "were", "run"]
    assert found["stop words, punctuation, endings"] == "boat run westward late"


def test_without_the_word_lists_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "snowballstemmer", None)
    assert texts.cleaned(["a"], "shipped") == ["a"]
    with pytest.raises(NotHere, match="evaluation"):
        texts.cleaned(["a"], "stemmed")
