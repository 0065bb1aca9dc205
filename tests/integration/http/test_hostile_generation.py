"""A generation that is not the one that was sealed is refused, and the last good one answers."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_jobs.shards.manifest import MANIFEST_NAME, manifest_digest
from sql import generations
from tests.integration.http.conftest import ENCODER_ID, Stack

LIST = "/v1/users/u/recommendations"


def replaced(folder: Path) -> None:
    """Another generation that is whole in itself: only the registry can tell."""
    fields = json.loads((folder / MANIFEST_NAME).read_text())
    fields["catalog_seq"] -= 1
    (folder / MANIFEST_NAME).write_text(json.dumps(fields))


def deep(folder: Path) -> None:
    (folder / MANIFEST_NAME).write_text("[" * 100_000)


def link(folder: Path) -> None:
    (folder / "items.parquet").rename(folder.parent / "elsewhere")
    (folder / "items.parquet").symlink_to(folder.parent / "elsewhere")


def fifo(folder: Path) -> None:
    import os

    (folder / "weights.safetensors").unlink()
    os.mkfifo(folder / "weights.safetensors")


def pickled(folder: Path) -> None:
    import pickle

    (folder / "weights.safetensors").write_bytes(pickle.dumps({"a": 1}))


@pytest.mark.parametrize("harm", [replaced, deep, link, fifo, pickled])
def test_a_hostile_generation_is_refused_by_name_and_the_last_one_answers(
    stack: Stack, harm: Callable[[Path], None]
) -> None:
    folder = stack.root / "generations" / "bad"
    shutil.copytree(stack.root / "generations" / "g1", folder)
    manifest = folder / MANIFEST_NAME
    manifest.write_text(manifest.read_text().replace('"g1"', '"bad"'))
    generations.register(stack.engine, "bad", encoder_id=ENCODER_ID, catalog_seq=1, created_at_ms=9)
    digest = manifest_digest(folder)
    harm(folder)
    generations.seal(stack.engine, "bad", manifest_digest=digest, metrics={})
    generations.stage(stack.engine, "bad")
    stack.flip("bad")
    deadline_s = time.monotonic() + 20
    while "bad" not in (refused := stack.replicas[0].get("/v1/status").json()["refused"]):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert str(folder) in refused["bad"]
    answer = stack.replicas[0].get(LIST).json()
    assert (answer["generation"], answer["degraded"]) == ("g1", ["generation_behind"])
    # The watch lives on: what is made after it is loaded.
    stack.publish("g2", seed=2)
    stack.wait_until_loaded("g2")
