"""A generation that is not the one that was sealed is refused, and the last good one answers."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_jobs.ranking.priors import Priors, PriorsError
from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.manifest import MANIFEST_NAME, manifest_digest, open_manifest
from serve.loaded_generation import LoadedGeneration
from sql import generations
from tests.integration.http.conftest import ENCODER_ID, Stack
from tests.integration.http.test_fused import priors_of, weights

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


def test_files_that_no_manifest_lists_are_not_opened(stack: Stack) -> None:
    """A generation without fusion in whose folder somebody left one: also one of 200 GB."""
    stack.publish("g2", seed=2)
    folder = stack.root / "generations" / "g2"
    with (folder / "fusion.json").open("wb") as file:
        file.truncate(200 << 30)
    stack.flip("g2")
    stack.wait_until_loaded("g2")
    folder = stack.root / "generations" / "g1"
    priors_of(weights(cosine=1.0)).write(folder, whole_file)
    assert LoadedGeneration.open(stack.root, "g1").priors is None
    names = open_manifest(folder).files
    assert Priors.open(folder, names) is None
    with pytest.raises(PriorsError, match="the manifest lacks"):
        Priors.open(folder, [*names, "fusion.json"])


def test_whatever_a_generation_makes_of_its_loader_the_others_answer(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_: object) -> None:
        raise MemoryError("200 GB")

    monkeypatch.setattr("serve.loaded_generation.load_weights", burst)
    stack.publish("g2", seed=2)
    stack.flip("g2")
    deadline_s = time.monotonic() + 20
    while "g2" not in (refused := stack.replicas[0].get("/v1/status").json()["refused"]):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert refused["g2"] == "MemoryError: 200 GB"
    assert stack.replicas[0].get(LIST).json()["generation"] == "g1"
