"""Ray Train with two workers: each steps on its share, both end with the same weights, and what
they learned together is as good as what one learns alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.stack.ray_cluster import LocalRay
from ray_jobs.encoders.fold import FoldEvent, fold, user_vector
from ray_jobs.encoders.item_text import compose, text_digest
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.event_vectors import write_event_vectors
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.shards.texts import write_text_vectors
from sql.catalog import ItemBody, ItemPut, put_items
from sql.engine import migrate, open_engine
from sql.events import EventKind, NewEvent, append

PROJECT_ROOT = Path(__file__).parents[2]
ITEMS, USERS, STEPS, TEXT_DIM = 24, 240, 12, 16


@pytest.fixture
def store(moonlark_env: dict[str, str]) -> dict[str, str]:
    """Users who walk round a circle of items: what comes next is known."""
    engine = open_engine(moonlark_env["MOONLARK_DATABASE_URL"])
    migrate(engine)
    texts = [compose(f"item {n}", "", None) for n in range(ITEMS)]
    puts = [
        ItemPut(f"i{n}", ItemBody(title=f"item {n}"), text, text_digest(text), None, {})
        for n, text in enumerate(texts)
    ]
    put_items(engine, puts, at_ms=1)
    events = [
        [
            NewEvent(
                f"u{user}",
                f"e{step}",
                EventKind.CLICK,
                f"i{(user + step) % ITEMS}",
                # The holdout is the end of the log: the last step of everybody.
                occurred_at_ms=1_000 * step * USERS + user,
            )
            for step in range(STEPS)
        ]
        for user in range(USERS)
    ]
    append(engine, events, received_at_ms=1)
    engine.dispose()
    return {**moonlark_env, "MOONLARK_TRAIN_RECIPE": "tiny", "PYTHONPATH": str(PROJECT_ROOT)}


def step(name: str, generation: str, env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", f"ray_jobs.nightly.{name}", "--generation", generation],
        env={**os.environ, **env},
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("MOONLARK_RESULT "))
    report: dict[str, Any] = json.loads(line.removeprefix("MOONLARK_RESULT "))
    return report


def trained(store: dict[str, str], workers: int) -> tuple[dict[str, Any], float]:
    """What a training with so many workers reports, and how often its weights know what is next."""
    generation = f"g{workers}"
    step("export", generation, store)
    workspace = Workspace(Path(store["MOONLARK_ARTIFACT_ROOT"]), generation)
    digests = [text_digest(compose(f"item {n}", "", None)) for n in range(ITEMS)]
    bert = np.random.default_rng(0).normal(size=(ITEMS, TEXT_DIM)).astype(np.float32)
    bert /= np.linalg.norm(bert, axis=1, keepdims=True)
    write_text_vectors(workspace.directory, digests, bert)
    write_event_vectors(workspace.work, {}, TEXT_DIM)
    workspace.write_report("embed", {})
    report = step("train", generation, {**store, "MOONLARK_TRAIN_WORKERS": str(workers)})
    encoder = load_weights(workspace.directory / "weights.safetensors")
    ordinals = np.arange(1, ITEMS + 1, dtype=np.int64)
    items = encoder.item_vectors(bert, ordinals)
    hits = 0
    for start in range(ITEMS):
        walked = [(start + n) % ITEMS for n in range(6)]
        events = [
            FoldEvent(n + 1, "click", int(ordinals[item]), bert[item])
            for n, item in enumerate(walked)
        ]
        vector = user_vector(encoder, fold(encoder, None, events))
        assert vector is not None
        scores = items @ vector
        scores[walked] = -np.inf
        hits += int(np.argmax(scores)) == (start + 6) % ITEMS
    return report, hits / ITEMS


@pytest.mark.timeout(600)
def test_two_workers_share_the_windows_and_learn_what_one_learns(
    local_ray: LocalRay, store: dict[str, str]
) -> None:
    one, one_hits = trained(store, 1)
    two, two_hits = trained(store, 2)
    assert (one["workers"], two["workers"]) == (1, 2)
    assert one["windows"] == [USERS]
    assert sum(two["windows"]) == USERS
    assert max(two["windows"]) - min(two["windows"]) <= 4  # one a batch
    assert one_hits > 0.8
    assert two_hits > one_hits - 0.15
    guessing = np.log(ITEMS)
    assert max(one["loss"], two["loss"]) < 0.1 * guessing
