"""Ray Train with two workers: each steps on its share, both end with the same weights, and they
have learned. That two ranks learn what one learns alone: tests/contract/test_train_ranks.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.stack.ray_cluster import LocalRay
from ray_jobs.encoders.fold import FoldEvent, fold, user_vector
from ray_jobs.encoders.item_text import compose, text_digest
from ray_jobs.encoders.train_config import tiny
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.event_vectors import write_event_vectors
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.shards.texts import write_text_vectors
from sql.catalog import ItemBody, ItemPut, put_items
from sql.engine import migrate, open_engine
from sql.events import EventKind, NewEvent, append

PROJECT_ROOT = Path(__file__).parents[2]
GENERATION = "g1"
ITEMS, USERS, STEPS, TEXT_DIM = 24, 240, 12, 16
BATCH = tiny().batch_size


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


@pytest.mark.timeout(600)
def test_two_workers_share_the_windows_and_learn_together(
    local_ray: LocalRay, store: dict[str, str]
) -> None:
    step("export", GENERATION, store)
    workspace = Workspace(Path(store["MOONLARK_ARTIFACT_ROOT"]), GENERATION)
    digests = [text_digest(compose(f"item {n}", "", None)) for n in range(ITEMS)]
    bert = np.random.default_rng(0).normal(size=(ITEMS, TEXT_DIM)).astype(np.float32)
    bert /= np.linalg.norm(bert, axis=1, keepdims=True)
    write_text_vectors(workspace.directory, digests, bert)
    write_event_vectors(workspace.work, {}, TEXT_DIM)
    workspace.write_report("embed", {})
    report = step("train", GENERATION, {**store, "MOONLARK_TRAIN_WORKERS": "2"})
    assert report["workers"] == 2
    assert sum(report["windows"]) == USERS
    assert max(report["windows"]) - min(report["windows"]) <= USERS // BATCH  # one a batch
    assert report["loss"] < 0.1 * np.log(ITEMS), "a tenth of a guess's"
    assert _known_next(load_weights(workspace.directory / "weights.safetensors"), bert) > 0.8


def _known_next(encoder: UserEncoder, bert: NDArray[np.float32]) -> float:
    """How often the weights know what comes after six items of the circle."""
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
    return hits / ITEMS
