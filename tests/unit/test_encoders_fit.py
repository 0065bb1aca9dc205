"""Training learns what can be learned, the same each time, and only from what it may see."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ray_jobs.encoders.config import KINDS
from ray_jobs.encoders.fit import (
    EpochReport,
    TrainConfig,
    TrainData,
    fit,
    from_columns,
    model_config_of,
    nightly,
    tiny,
)
from ray_jobs.encoders.fit_batches import NO_TARGET, columns_of, epoch_batches, windows_of
from ray_jobs.encoders.fit_loss import CatalogSoftmax
from ray_jobs.encoders.fit_start import whiten_projection
from ray_jobs.encoders.fold import FoldEvent, fold, user_vector
from ray_jobs.encoders.user_lstm import UserLSTM
from ray_jobs.encoders.weights import encoder_of
from ray_jobs.nightly.kept import Kept, KeptFile
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.ranking.metrics import ndcg_at_k, ranks_of_targets

ITEMS, LENGTH = 30, 8


def circle(
    users: int = 120,
    held_out: int = 1,
    kind: str = "click",
    at_ms_E: NDArray[np.int64] | None = None,
) -> TrainData:
    """Oracle data: whoever saw item i goes on to item i + 1, around a circle of 30."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, ITEMS, users)
    items = (starts[:, None] + np.arange(LENGTH)) % ITEMS
    held = np.zeros((users, LENGTH), bool)
    held[:, LENGTH - held_out :] = held_out > 0
    return from_columns(
        users_E=np.repeat(np.arange(users), LENGTH),
        ordinals_E=100 + items.ravel(),
        texts_E=items.ravel(),
        kinds_E=[kind] * items.size,
        values_E=np.full(items.size, 4.0 if kind == "rating" else np.nan, np.float32),
        held_out_E=held.ravel(),
        bert_NT=rng.normal(size=(ITEMS, 24)).astype(np.float32),
        item_ordinals_I=100 + np.arange(ITEMS),
        item_texts_I=np.arange(ITEMS),
        at_ms_E=at_ms_E,
    )


def test_a_pattern_without_noise_is_learned() -> None:
    result = fit(replace(tiny(), epochs=15), circle())
    assert result.history[result.best_epoch].valid_ndcg > 0.9
    assert result.history[0].loss > 2 * result.history[-1].loss


def test_the_fold_in_numpy_answers_as_validation_measured() -> None:
    data = circle()
    result = fit(tiny(), data)
    encoder = encoder_of(result)
    items_ID = encoder.item_vectors(data.bert_NT, data.item_ordinals_I)
    scores, targets, seen = [], [], np.zeros((data.user_count, ITEMS), bool)
    for user, (first, end) in enumerate(
        zip(data.offsets_U1[:-1], data.offsets_U1[1:], strict=True)
    ):
        rows = data.items_E[first : end - 1]
        seen[user, rows] = True
        events = [
            FoldEvent(step, "click", 100 + int(row), data.bert_NT[row])
            for step, row in enumerate(rows, start=1)
        ]
        vector = user_vector(encoder, fold(encoder, None, events))
        assert vector is not None
        scores.append(items_ID @ vector)
        targets.append(int(data.items_E[end - 1]))
    ndcg = ndcg_at_k(ranks_of_targets(np.array(scores), np.array(targets), seen), 10)
    assert ndcg == pytest.approx(result.history[result.best_epoch].valid_ndcg, abs=1e-3)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    config, data = replace(tiny(), epochs=2), circle()
    first, again = fit(config, data), fit(config, data)
    other = fit(replace(config, seed=1), data)
    state = first.model.state_dict()
    assert all(torch.equal(t, again.model.state_dict()[n]) for n, t in state.items())
    assert not torch.equal(state["out.weight"], other.model.state_dict()["out.weight"])


def checkpoint_in(folder: Path) -> KeptFile:
    return KeptFile(Kept(Workspace(folder, "g1"), "train"), "checkpoint.safetensors")


class Killed(Exception):
    pass


def killed_after(epoch: int) -> Callable[[EpochReport], None]:
    def look(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise Killed

    return look


@pytest.mark.parametrize("killed", [0, 2, 4])
def test_a_run_that_was_killed_goes_on_and_learns_the_very_same(
    killed: int, tmp_path: Path
) -> None:
    config, data = replace(tiny(), epochs=5, patience=5), circle(users=60)
    whole = fit(config, data)
    kept = checkpoint_in(tmp_path)
    with pytest.raises(Killed):
        fit(config, data, on_epoch=killed_after(killed), checkpoint=kept)
    seen: list[int] = []
    rest = fit(config, data, on_epoch=lambda report: seen.append(report.epoch), checkpoint=kept)
    assert seen == list(range(killed + 1, 5))
    assert rest.resumed == killed + 1
    expected = whole.model.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in rest.model.state_dict().items())
    assert rest.best_epoch == whole.best_epoch
    told = [(r.epoch, r.loss, r.valid_ndcg, r.lr, r.windows) for r in rest.history]
    assert told == [(r.epoch, r.loss, r.valid_ndcg, r.lr, r.windows) for r in whole.history]


def test_a_checkpoint_of_other_data_or_a_torn_one_is_none(tmp_path: Path) -> None:
    config, data, kept = replace(tiny(), epochs=2), circle(users=60), checkpoint_in(tmp_path)
    expected = fit(config, data).model.state_dict()
    fit(config, circle(users=59), checkpoint=kept)
    for torn in (False, True):
        if torn:
            path = kept.latest()
            assert path is not None
            path.write_bytes(path.read_bytes()[:1_000])
        again = fit(config, data, checkpoint=kept)
        assert again.resumed == 0
        assert all(torch.equal(t, expected[n]) for n, t in again.model.state_dict().items())


def test_training_leaves_the_callers_randomness_and_threads_alone() -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit(replace(tiny(), epochs=1, threads=threads + 1), circle(users=8))
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads


def test_held_out_events_do_not_touch_the_weights() -> None:
    """Two sets that differ in nothing but the held-out events give the same weights."""
    data = circle(users=40)
    other_items = np.where(data.held_out_E, 0, data.items_E)
    other = replace_events(data, other_items)
    config = replace(tiny(), epochs=1)
    left, right = fit(config, data).model.state_dict(), fit(config, other).model.state_dict()
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def replace_events(data: TrainData, items_E: np.ndarray) -> TrainData:
    return replace(data, items_E=items_E, texts_E=items_E)


def test_without_validation_the_last_epoch_is_kept() -> None:
    result = fit(replace(tiny(), epochs=3), circle(users=20, held_out=0))
    assert result.best_epoch == 2
    assert all(np.isnan(report.valid_ndcg) for report in result.history)


def test_training_stops_when_validation_no_longer_improves() -> None:
    result = fit(replace(tiny(), epochs=60, patience=2), circle(users=60))
    figures = [report.valid_ndcg for report in result.history]
    assert len(figures) < 60
    assert figures.index(max(figures)) == len(figures) - 3


def test_of_epochs_that_validation_finds_equal_the_last_is_kept() -> None:
    result = fit(tiny(), circle())
    equal = [report.epoch for report in result.history if report.valid_ndcg == 1.0]
    assert len(equal) > 1, "validation told all epochs apart"
    assert result.best_epoch == equal[-1]


def test_residuals_go_to_items_with_events_enough() -> None:
    data = circle(users=40, held_out=0)
    counts = np.bincount(data.items_E, minlength=ITEMS)
    config = replace(tiny(), epochs=1, residual_min_events=int(np.median(counts)) + 1)
    result = fit(config, data)
    expected = 100 + np.flatnonzero(counts >= config.residual_min_events)
    assert result.residual_ordinals.tolist() == expected.tolist()
    assert 0 < len(expected) < ITEMS
    assert not bool(result.model.residual.weight[0].any())


def test_a_kind_never_trained_acts_as_an_event_not_as_nothing() -> None:
    result = fit(replace(tiny(), epochs=3), circle(kind="rating"))
    model = result.model
    rating, click, hide = (KINDS.index(kind) for kind in ("rating", "click", "hide"))
    trained = model.kind.weight[rating]
    assert bool(trained.any())
    assert torch.allclose(model.kind.weight[click], trained)
    assert torch.allclose(model.rating.weight[0], model.rating.weight[1])
    assert torch.allclose(model.kind.weight[hide], trained)  # one rating level: none is lower


def test_every_event_but_a_users_first_is_predicted_once() -> None:
    data = circle(users=30, held_out=1)
    for seed in range(5):
        windows = windows_of(data, 3, np.random.default_rng(seed))
        predicted = sorted(event for a, b in windows for event in range(a + 1, b + 1))
        allowed = np.ones(len(data.items_E), bool)
        allowed[data.offsets_U1[:-1]] = False
        assert predicted == np.flatnonzero(allowed & ~data.held_out_E).tolist()
        batches = list(epoch_batches(windows, 4, np.random.default_rng(seed)))
        assert sorted(window for batch in batches for window in batch) == sorted(windows)


def test_a_repeat_is_no_target_and_neither_is_a_dislike() -> None:
    data = from_columns(
        users_E=np.array([1, 1, 1, 1, 1, 2]),
        ordinals_E=np.array([5, 6, 5, 7, -1, 5]),
        texts_E=np.array([0, 1, 0, 0, -1, 0]),
        kinds_E=["view", "click", "purchase", "dislike", "search", "view"],
        values_E=np.full(6, np.nan, np.float32),
        held_out_E=np.zeros(6, bool),
        bert_NT=np.eye(2, dtype=np.float32),
        item_ordinals_I=np.array([5, 6, 7]),
        item_texts_I=np.array([0, 1, 1]),
    )
    assert data.targets_E().tolist() == [True, True, False, False, False, True]


def loss_of(data: TrainData, config: TrainConfig) -> tuple[CatalogSoftmax, UserLSTM]:
    torch.manual_seed(0)
    model_config, rows = model_config_of(config, data)
    model = UserLSTM(model_config)
    return CatalogSoftmax(model, config, data, rows).eval(), model


def test_the_softmax_leaves_out_what_was_seen_and_nothing_else() -> None:
    """Against the plain formula, window by window, with histories that began before the window."""
    data, config = circle(users=5, held_out=0), tiny()
    loss, model = loss_of(data, config)
    rows_I = model_config_of(config, data)[1]
    columns = columns_of(data, model.config, rows_I)
    windows = [(0, 4), (4, 7), (8 + 2, 8 + 7), (16, 17)]
    found = loss(
        columns.batch(windows),
        columns.next_targets(windows),
        columns.asked_at(windows),
        columns.barred(windows),
    )
    items_ID = model.items(torch.from_numpy(data.bert_NT), torch.from_numpy(rows_I))
    users_BLD = model(torch.from_numpy(data.bert_NT), columns.batch(windows))
    losses = []
    for row, (first, last) in enumerate(windows):
        for step in range(last - first):
            logits = model.logit_scale.exp() * (items_ID @ users_BLD[row, step])
            seen = data.items_E[first // LENGTH * LENGTH : first + step + 1]
            logits[torch.from_numpy(seen)] = -torch.inf
            losses.append(-logits.log_softmax(0)[data.items_E[first + step + 1]])
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


def test_what_happened_at_one_time_is_asked_for_together_from_the_state_before_it() -> None:
    """Against the plain formula: each line of a basket from the state before the basket; nothing
    is asked of what has nothing before it in its window."""
    at_ms = np.tile([1, 1, 2, 3, 3, 3, 4, 4], 5)
    data, config = circle(users=5, held_out=0, at_ms_E=at_ms), tiny()
    assert data.moments_E[:8].tolist() == [0, 0, 2, 3, 3, 3, 6, 6]
    assert data.moments_E[8] == 8  # another user at the same time
    loss, model = loss_of(data, config)
    rows_I = model_config_of(config, data)[1]
    columns = columns_of(data, model.config, rows_I)
    windows = [(0, 4), (4, 7), (8, 8 + 7)]
    found = loss(
        columns.batch(windows),
        columns.next_targets(windows),
        columns.asked_at(windows),
        columns.barred(windows),
    )
    items_ID = model.items(torch.from_numpy(data.bert_NT), torch.from_numpy(rows_I))
    users_BLD = model(torch.from_numpy(data.bert_NT), columns.batch(windows))
    losses = []
    for row, (first, last) in enumerate(windows):
        for step in range(last - first):
            before = int(data.moments_E[first + step + 1]) - 1 - first
            if before < 0:
                continue
            logits = model.logit_scale.exp() * (items_ID @ users_BLD[row, before])
            seen = data.items_E[first // LENGTH * LENGTH : first + step + 1]
            logits[torch.from_numpy(seen)] = -torch.inf
            losses.append(-logits.log_softmax(0)[data.items_E[first + step + 1]])
    assert len(losses) == 3 + 2 + 6
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


def test_a_sampled_softmax_estimates_the_full_one() -> None:
    data = circle(users=60, held_out=0)
    windows = windows_of(data, 20, np.random.default_rng(0))
    values = {}
    for limit in (ITEMS, ITEMS - 1, ITEMS // 3):
        config = replace(tiny(), softmax_items=limit)
        loss, model = loss_of(data, config)
        columns = columns_of(data, model.config, model_config_of(config, data)[1])
        batch = (
            columns.batch(windows),
            columns.next_targets(windows),
            columns.asked_at(windows),
            columns.barred(windows),
        )
        values[limit] = np.mean([loss(*batch).item() for _ in range(20)])
    assert values[ITEMS - 1] == pytest.approx(values[ITEMS], rel=0.02)
    assert values[ITEMS // 3] == pytest.approx(values[ITEMS], rel=0.05)


def test_of_a_large_catalog_the_texts_of_the_batch_are_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same loss and gradients as with every text projected."""
    data = circle(users=6, held_out=0)
    data.texts_E[::7] = -1  # an event whose text has no vector
    config = replace(tiny(), softmax_items=4)
    loss, model = loss_of(data, config)
    columns = columns_of(data, model.config, model_config_of(config, data)[1])
    windows = windows_of(data, 20, np.random.default_rng(0))[:2]
    batch = (
        columns.batch(windows),
        columns.next_targets(windows),
        columns.asked_at(windows),
        columns.barred(windows),
    )

    def measured() -> tuple[float, list[torch.Tensor]]:
        torch.manual_seed(5)
        model.zero_grad()
        value = loss(*batch)
        value.backward()
        return value.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    rows_N, *_ = loss._texts_of(batch[0].texts_BL, torch.tensor([0, 3]))
    assert len(rows_N) < len(data.bert_NT), "some are left out"
    value, gradients = measured()
    everything = torch.from_numpy(data.bert_NT)
    monkeypatch.setattr(
        loss, "_texts_of", lambda texts_BL, texts_C: (everything, texts_BL, texts_C)
    )
    of_all, gradients_of_all = measured()
    assert value == pytest.approx(of_all, abs=1e-6)
    for one, other in zip(gradients, gradients_of_all, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_batch_without_targets_costs_nothing_and_reaches_every_parameter() -> None:
    data = circle(users=3, held_out=0)
    loss, model = loss_of(data, tiny())
    columns = columns_of(data, model.config, model_config_of(tiny(), data)[1])
    windows = [(0, 3)]
    targets = torch.full_like(columns.next_targets(windows), NO_TARGET)
    value = loss(
        columns.batch(windows), targets, columns.asked_at(windows), columns.barred(windows)
    )
    value.backward()
    assert value.item() == 0.0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_ranks_share_each_batch_without_overlap() -> None:
    windows = windows_of(circle(users=21), 20, np.random.default_rng(0))
    for batch in epoch_batches(windows, 8, np.random.default_rng(0)):
        shares = [batch[rank::3] for rank in range(3)]
        assert sorted(window for share in shares for window in share) == sorted(batch)


def test_the_projection_starts_with_items_apart() -> None:
    """BERT vectors share a large mean; whitened, two random items are about at right angles."""
    rng = np.random.default_rng(0)
    texts = (rng.normal(size=(200, 24)) * 0.1 + 1.0).astype(np.float32)
    model = UserLSTM(model_config_of(tiny(), circle())[0])
    whiten_projection(model, texts)
    with torch.inference_mode():
        items = model.items(torch.from_numpy(texts), torch.zeros(200, dtype=torch.long))
    cosines = (items @ items.T)[~torch.eye(200, dtype=torch.bool)]
    assert abs(cosines.mean().item()) < 0.02
    raw = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    assert (raw @ raw.T).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"users_E": np.array([1, 2, 1])}, "adjacent"),
        ({"kinds_E": ["view", "view", "undo"]}, "unknown kinds"),
        ({"texts_E": np.array([0, 1, 2])}, "texts_E"),
        ({"held_out_E": np.array([False, True, False])}, "held-out"),
        ({"item_ordinals_I": np.array([6, 5])}, "ascend"),
        ({"values_E": np.zeros(2, np.float32)}, "length"),
    ],
)
def test_columns_that_do_not_fit_are_refused(change: dict[str, object], reason: str) -> None:
    columns: dict[str, object] = {
        "users_E": np.array([1, 1, 1]),
        "ordinals_E": np.array([5, 6, 5]),
        "texts_E": np.array([0, 1, 0]),
        "kinds_E": ["view"] * 3,
        "values_E": np.zeros(3, np.float32),
        "held_out_E": np.zeros(3, bool),
        "bert_NT": np.eye(2, dtype=np.float32),
        "item_ordinals_I": np.array([5, 6]),
        "item_texts_I": np.array([0, 1]),
    }
    with pytest.raises(ValueError, match=reason):
        from_columns(**(columns | change))  # type: ignore[arg-type]


def test_nothing_to_train_on_is_said() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        fit(tiny(), circle(users=3, held_out=LENGTH - 1))
    with pytest.raises(ValueError, match="rank"):
        fit(tiny(), circle(users=3), rank=2, world_size=2)
    with pytest.raises(ValueError, match="epochs"):
        replace(nightly(), epochs=0)
