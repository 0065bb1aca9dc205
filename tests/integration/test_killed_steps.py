"""Steps on Ray that are killed with -9 amid their work and go on where they were.

Ray Train with two workers: each steps on its share, both end with the same weights, and they have
learned. That two ranks learn what one learns alone: tests/contract/test_train_ranks.py.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from infra.drills.catalog import TEXT_DIM as TEXT_DIM_OF_DRILLS
from infra.drills.made_bert import NUMBERS, make_bert
from infra.stack.ray_cluster import LocalRay
from ray_jobs.encoders.fold import FoldEvent, fold, user_vector
from ray_jobs.encoders.item_text import compose, text_digest
from ray_jobs.encoders.train_config import tiny
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.event_vectors import write_event_vectors
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.shards.texts import TextVectors, write_text_vectors
from sql.catalog import ItemBody, ItemPut, put_items
from sql.engine import migrate, open_engine
from sql.events import EventKind, NewEvent, append

PROJECT_ROOT = Path(__file__).parents[2]
GENERATION = "g1"
ITEMS, USERS, STEPS, TEXT_DIM = 24, 240, 12, 16
TEXTS = 9_000
"""More than are kept at a time."""
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


def begin(name: str, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"ray_jobs.nightly.{name}", "--generation", GENERATION],
        env={**os.environ, **env},
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def step(name: str, env: dict[str, str]) -> dict[str, Any]:
    job = begin(name, env)
    told, _ = job.communicate(timeout=600)
    assert job.returncode == 0, told[-6000:]
    (line,) = (line for line in told.splitlines() if line.startswith("MOONLARK_RESULT "))
    report: dict[str, Any] = json.loads(line.removeprefix("MOONLARK_RESULT "))
    return report


def kill_amid(name: str, env: dict[str, str], kept: Path) -> None:
    """SIGKILL a step as soon as it has kept a first file there."""
    job = begin(name, env)
    deadline = time.monotonic() + 150
    while not any(kept.glob("[!.]*")):
        assert job.poll() is None, job.communicate()[0][-6000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    job.kill()
    job.communicate(timeout=180)


def kept_of(workspace: Workspace, name: str) -> Path:
    return workspace.work / "kept" / name


@pytest.mark.timeout(1_200)
def test_a_killed_embed_embeds_what_is_left(
    local_ray: LocalRay, store: dict[str, str], tmp_path: Path
) -> None:
    engine = open_engine(store["MOONLARK_DATABASE_URL"])
    texts = [compose(f"space spacew{n % NUMBERS} {n}", "", None) for n in range(TEXTS)]
    put_items(
        engine,
        [
            ItemPut(f"t{n}", ItemBody(title=f"t {n}"), text, text_digest(text), None, {})
            for n, text in enumerate(texts)
        ],
        at_ms=2,
    )
    engine.dispose()
    env = {**store, "MOONLARK_BERT_MODEL": str(make_bert(tmp_path / "bert"))}
    step("export", env)
    workspace = Workspace(Path(store["MOONLARK_ARTIFACT_ROOT"]), GENERATION)
    kill_amid("embed", env, kept_of(workspace, "embed"))
    kept = sorted(kept_of(workspace, "embed").glob("[!.]*"))
    assert 0 < sum(pq.read_metadata(path).num_rows for path in kept) < TEXTS
    # Marked, so that it shows where the second try has them from.
    part = pq.read_table(kept[0])
    mark = np.arange(TEXT_DIM_OF_DRILLS, dtype=np.float32).tobytes()
    column = pa.array([mark] * len(part), part.schema.field("vector").type)
    pq.write_table(part.set_column(1, "vector", column), kept[0])
    report = step("embed", env)
    assert report["embedded"] == TEXTS + ITEMS
    found = TextVectors.open(workspace.directory)
    is_marked = [vector.tobytes() == mark for vector in found.vectors]
    assert sum(is_marked) == len(part)
    assert not kept_of(workspace, "embed").exists()


@pytest.mark.timeout(1_200)
def test_two_workers_share_the_windows_and_learn_together(
    local_ray: LocalRay, store: dict[str, str]
) -> None:
    step("export", store)
    workspace = Workspace(Path(store["MOONLARK_ARTIFACT_ROOT"]), GENERATION)
    digests = [text_digest(compose(f"item {n}", "", None)) for n in range(ITEMS)]
    bert = np.random.default_rng(0).normal(size=(ITEMS, TEXT_DIM)).astype(np.float32)
    bert /= np.linalg.norm(bert, axis=1, keepdims=True)
    write_text_vectors(workspace.directory, digests, bert)
    write_event_vectors(workspace.work, {}, TEXT_DIM)
    workspace.write_report("embed", {})
    env = {**store, "MOONLARK_TRAIN_WORKERS": "2"}
    kill_amid("train", env, kept_of(workspace, "train"))
    report = step("train", env)
    assert report["resumed"] > 0
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
