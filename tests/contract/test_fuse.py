"""The night learns what a list is made from: on both databases, from the log as it is exported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, delete

from infra.simulation.fake_model import FakeBert, embed_text, make_model
from ray_jobs.encoders.item_text import compose, text_digest
from ray_jobs.encoders.weights import write_weights
from ray_jobs.nightly.build import build_shard, build_with
from ray_jobs.nightly.embed_missing import embed_with
from ray_jobs.nightly.evaluate import evaluate
from ray_jobs.nightly.export import export
from ray_jobs.nightly.fuse import fuse, model_of, neighbours_of
from ray_jobs.nightly.histories import Histories, open_histories
from ray_jobs.nightly.holdout import held_out, validation
from ray_jobs.nightly.replay import Replay, questions_of
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.train import training_data
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.ranking.fusion import FEATURES
from ray_jobs.ranking.neighbours import Neighbours
from ray_jobs.ranking.priors import Priors
from ray_jobs.shards.items import read_items
from sql import catalog, generations
from sql.catalog import ItemBody, ItemPut, put_items
from sql.event import EventKind, NewEvent
from sql.event_log import append
from sql.settings import StoreSettings
from sql.tables import item_activity
from tests.contract.store_builder import DAY_MS, NOW_MS

ITEMS, USERS, EVENTS = 30, 140, 12


def fill(engine: Engine, rng: np.random.Generator) -> None:
    """Whoever takes an even item takes the next one after it; the pairs have their weeks."""
    puts = []
    for number in range(ITEMS):
        body = ItemBody(title=f"item {number}", published_at_ms=NOW_MS - (40 - number) * DAY_MS)
        text = compose(body.title, body.text, body.category)
        puts.append(ItemPut(f"i{number}", body, text, text_digest(text), None, {}))
    put_items(engine, puts, NOW_MS)
    for user in range(USERS):
        start_ms = NOW_MS - int(rng.integers(1, 30)) * DAY_MS - user
        pairs = rng.permutation(ITEMS // 2)[: EVENTS // 2]
        items = [2 * pair + half for pair in pairs for half in (0, 1)]
        times = [start_ms + n * 60_000 for n in range(EVENTS)]
        log = [
            NewEvent(f"u{user}", f"e{n}", EventKind.CLICK, f"i{item}", occurred_at_ms=at_ms)
            for n, (item, at_ms) in enumerate(zip(items, times, strict=True))
        ]
        append(engine, [log], received_at_ms=NOW_MS, history=True)


@pytest.fixture
def night(engine: Engine, tmp_path: Path) -> Night:
    fill(engine, np.random.default_rng(0))
    settings = NightSettings(holdout_hours=1, holdout_events=30, fusion_questions=400)
    store = StoreSettings(artifact_root=tmp_path)
    return Night(engine, store, settings, Workspace(tmp_path, "g1"), lambda: NOW_MS)


def embedded(engine: Engine, digests: list[str]) -> dict[str, np.ndarray]:
    with engine.connect() as conn:
        return {d: embed_text(t) for d, t in catalog.texts_by_digest(conn, digests).items()}


def trained(night: Night) -> Report:
    """Weights that know nothing: what is learned, the fusion learned."""
    model = make_model(1, read_items(night.workspace.work).live_ordinals().tolist())
    path = night.workspace.directory / "weights.safetensors"
    write_weights(path, model.config, model.tensors, model.residual_ordinals)
    return {}


def until_fused(night: Night) -> Report:
    run_step(night, "export", export)
    run_step(night, "embed", lambda n: embed_with(n, FakeBert(), lambda d: embedded(n.engine, d)))
    run_step(night, "train", trained)
    run_step(night, "build", lambda n: build_with(n, lambda tasks: [build_shard(t) for t in tasks]))
    return run_step(night, "fuse", fuse)


def test_the_three_parts_of_the_log_do_not_overlap_and_end_in_this_order(night: Night) -> None:
    run_step(night, "export", export)
    run_step(night, "embed", lambda n: embed_with(n, FakeBert(), lambda d: embedded(n.engine, d)))
    histories = open_histories(night.workspace)
    held = held_out(histories, night.settings)
    valid = validation(histories, held, night.settings)
    assert not (held & valid).any()
    assert min(held.sum(), valid.sum(), (~held & ~valid).sum()) > 20
    part = np.where(held, 2, np.where(valid, 1, 0))
    for first, last in zip(histories.offsets_U1[:-1], histories.offsets_U1[1:], strict=True):
        assert (np.diff(part[first:last]) >= 0).all()
    data = training_data(night.workspace, night.settings)
    assert len(data.items_E) == (~held).sum()
    assert data.held_out_E.sum() == valid.sum()
    few = night.settings.model_copy(update={"fusion_questions": 99})
    assert not validation(histories, held, few).any()


def test_what_goes_together_is_learned_and_written(night: Night) -> None:
    report = until_fused(night)
    assert report["answerable"] >= 100
    priors = Priors.open(night.workspace.directory)
    assert priors is not None
    known = dict(zip(FEATURES, priors.fusion.lively.known, strict=True))
    assert known["neighbours_0.8"] + known["neighbours_log"] > 0.1
    near, sums, _ = priors.neighbours.near(np.array([4]))
    assert near[np.argmax(sums[:, 0])] == 5
    measured = run_step(night, "evaluate", evaluate)
    assert measured["fused"]
    assert measured["ndcg@10"] > measured["popularity"]["ndcg@10"] + 0.1
    assert run_step(night, "fuse", fuse) == report


def test_a_question_is_answered_by_what_came_before_its_moment(night: Night) -> None:
    until_fused(night)
    priors = Priors.open(night.workspace.directory)
    assert priors is not None
    model = model_of(night.workspace, priors.neighbours, priors.fusion)
    histories = open_histories(night.workspace)
    held_E = held_out(histories, night.settings)
    question = questions_of(histories, held_E, model.ordinals_N, a_user=50, most=1_000)[0]
    later_E = histories.at_ms_E >= question.at_ms
    assert 0 < later_E.sum() < len(later_E)

    def known(changed_E: NDArray[np.bool_]) -> tuple[list[int], bytes, float]:
        """Where these events were about the next item."""
        items = model.ordinals_N
        next_E = items[(np.searchsorted(items, histories.ordinals_E) + 1) % len(items)]
        ordinals_E = np.where(changed_E, next_E, histories.ordinals_E)
        other = replace(histories, ordinals_E=ordinals_E)
        ((_, found, evidence, month),) = Replay(model, other, [question]).evidence()
        return found.tolist(), evidence.features(question.at_ms).tobytes(), month

    assert known(later_E) == known(np.zeros_like(later_E))
    assert known(~later_E) != known(np.zeros_like(later_E))


def test_neighbours_that_judge_have_not_seen_the_holdout(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_fused(night)
    counted: list[NDArray[np.bool_]] = []

    def spied(histories: Histories, used_E: NDArray[np.bool_], workspace: Workspace) -> Neighbours:
        counted.append(used_E)
        return neighbours_of(histories, used_E, workspace)

    monkeypatch.setattr("ray_jobs.nightly.evaluate.neighbours_of", spied)
    run_step(night, "evaluate", evaluate)
    held_E = held_out(open_histories(night.workspace), night.settings)
    assert held_E.any()
    assert counted
    assert not any((used_E & held_E).any() for used_E in counted)


def test_activity_is_the_days_counts_and_before_what_is_kept_of_them_the_logs(
    night: Night, engine: Engine
) -> None:
    until_fused(night)
    whole = Priors.open(night.workspace.directory)
    with engine.begin() as conn:  # as retention does
        conn.execute(delete(item_activity).where(item_activity.c.hour < NOW_MS // 3_600_000 - 240))
    other = Workspace(night.workspace.root, "g2")
    until_fused(Night(engine, night.store, night.settings, other, night.now_ms))
    trimmed = Priors.open(other.directory)
    assert whole is not None
    assert trimmed is not None
    everything = np.arange(ITEMS)
    np.testing.assert_allclose(
        whole.activity.at(everything, NOW_MS), trimmed.activity.at(everything, NOW_MS), rtol=1e-4
    )
    assert whole.activity.at(everything, NOW_MS)[:, -1].sum() == pytest.approx(USERS * EVENTS)


def test_the_next_night_tells_what_live_feedback_was_worth(night: Night, engine: Engine) -> None:
    until_fused(night)
    run_step(night, "evaluate", evaluate)
    generations.seal(engine, "g1", manifest_digest="d", metrics={})
    generations.flip(engine, "g1", expected_flip=0, who="test", why="t", hold=False, at_ms=NOW_MS)
    later_ms = NOW_MS + 3_600_000
    for user in range(40):  # new users: by night nothing was known of them
        pair = user % 15
        log = [
            NewEvent(
                f"new{user}",
                f"e{n}",
                EventKind.CLICK,
                f"i{2 * pair + n}",
                occurred_at_ms=later_ms + user * 10 + n,
            )
            for n in (0, 1)
        ]
        append(engine, [log], received_at_ms=later_ms + 500)
    tomorrow = Workspace(night.workspace.root, "g2")
    settings = night.settings.model_copy(update={"holdout_events": 10})
    second = Night(engine, night.store, settings, tomorrow, lambda: NOW_MS + DAY_MS)
    until_fused(second)
    run_step(second, "evaluate", evaluate)
    with engine.connect() as conn:
        live = generations.get_generation(conn, "g1")
    assert live is not None
    day = live.metrics["day"]
    assert (day["questions"], day["users"]) == (40, 40)
    assert day["ndcg@10"] > day["frozen_ndcg@10"] + 0.1
    assert day["difference_low"] > 0


def test_a_log_too_small_goes_without(engine: Engine, tmp_path: Path, night: Night) -> None:
    few = NightSettings(holdout_hours=1, holdout_events=30, fusion_questions=50)
    small = Night(engine, night.store, few, Workspace(tmp_path, "small"), night.now_ms)
    assert until_fused(small)["questions"] == 0
    assert Priors.open(small.workspace.directory) is None
    assert not run_step(small, "evaluate", evaluate)["fused"]
