"""The night measures nprobe on users' vectors, and the manifest carries what it found."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine

from infra.bench.fold_data import ITEMS, write_night
from ray_jobs.encoders.fold import fold, user_vector
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.build import build_shard, build_with, item_vectors
from ray_jobs.nightly.histories import open_histories
from ray_jobs.nightly.seal import write_generation_manifest
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.shards import placement
from ray_jobs.shards.item_block import Item, ItemBlock
from ray_jobs.shards.manifest import open_manifest
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.recall import exact_nearest, recalls_of
from sql.settings import StoreSettings

USERS, PROMISED = 400, 0.97


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """What a night has when it comes to build: ITEMS items, 400 users, weights."""
    workspace, _ = write_night(tmp_path, USERS, mean_events=8, seed=3)
    items = [
        Item(ordinal, f"i{ordinal}", "", None, "{}", None, f"{ordinal:032x}")
        for ordinal in range(ITEMS)
    ]
    pq.write_table(ItemBlock.of(items).table(), workspace.items)
    workspace.write_report("train", {})
    workspace.write_report("export", {"catalog_seq": 0})
    workspace.write_report("embed", {"encoder_id": "e", "text_dim": 384})
    settings = NightSettings(index_recall=PROMISED)
    store = StoreSettings(artifact_root=tmp_path)
    return Night(create_engine("sqlite://"), store, settings, workspace, lambda: 0)


def build_here(night: Night) -> Report:
    """The step without the registry and without Ray."""
    report = build_with(night, lambda tasks: [build_shard(task) for task in tasks])
    night.workspace.write_report("build", report)
    return report


def recall_of_everyone(workspace: Workspace) -> float:
    """Mean recall@100 over the vectors of all users, with the manifest's nprobe."""
    encoder = load_weights(workspace.directory / "weights.safetensors")
    sessions = [fold(encoder, None, events) for _, events in open_histories(workspace).users()]
    asked = [user_vector(encoder, session) for session in sessions]
    queries_BD = np.array([vector for vector in asked if vector is not None])
    shards = ShardSet.open(workspace.directory, open_manifest(workspace.directory))
    ordinals_N, vectors_ND = item_vectors(workspace)
    _, true_BK = exact_nearest(queries_BD, vectors_ND, ordinals_N)
    return float(recalls_of(shards.search_all(queries_BD, 100)[1], true_BK).mean())


def test_the_manifest_has_the_nprobe_that_keeps_the_promise_to_users(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "FLAT_LIMIT", ITEMS // 2)
    report = build_here(night)
    manifest = write_generation_manifest(night)
    assert manifest.nprobe == report["nprobe"]
    assert 1 <= manifest.nprobe < manifest.nlist
    assert report["recall"] >= PROMISED
    assert recall_of_everyone(night.workspace) >= PROMISED


def test_a_small_catalog_is_searched_exactly_and_measures_nothing(night: Night) -> None:
    report = build_here(night)
    assert (report["family"], report["nprobe"], report["recall"]) == ("Flat", 0, 1.0)
