"""A generation is whole and unchanged, or it is refused with the path and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ray_jobs.shards.errors import (
    ArtifactError,
    CorruptArtifact,
    ManifestError,
    MissingArtifact,
    UnsafePath,
)
from ray_jobs.shards.manifest import (
    MANIFEST_NAME,
    manifest_digest,
    open_manifest,
    verify,
    write_manifest,
)
from tests.unit.shards_builder import grid_vectors, write_generation


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    folder = tmp_path / "g1"
    vectors = grid_vectors(np.random.default_rng(1), 30, 4)
    write_generation(folder, vectors, np.arange(30, dtype=np.int64))
    return folder


def edit(folder: Path, change) -> None:
    path = folder / MANIFEST_NAME
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_what_was_written_is_what_is_read(generation: Path):
    manifest = open_manifest(generation)
    assert (manifest.generation_id, manifest.item_count, manifest.family) == ("g1", 30, "Flat")
    read = []
    verify(generation, manifest, read.append)
    assert sum(read) == sum(entry.size for entry in manifest.files.values())
    assert len(manifest_digest(generation)) == 64


@pytest.mark.parametrize("name", ["shards/0000.faiss", "shards/0001.faiss", "weights.safetensors"])
def test_every_flipped_bit_is_found(generation: Path, name: str):
    path = generation / name
    manifest = open_manifest(generation)
    whole = path.read_bytes()
    for position in {0, len(whole) // 2, len(whole) - 1}:
        broken = bytearray(whole)
        broken[position] ^= 1
        path.write_bytes(broken)
        open_manifest(generation)  # the size is right, so only the digest can tell
        with pytest.raises(CorruptArtifact) as caught:
            verify(generation, manifest)
        assert caught.value.path == path
        assert "moonlark rollback" in caught.value.hint


def test_a_truncated_file_is_refused_at_open(generation: Path):
    path = generation / "shards/0000.faiss"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptArtifact):
        open_manifest(generation)


def test_a_missing_file_is_refused_at_open(generation: Path):
    (generation / "items.parquet").unlink()
    with pytest.raises(MissingArtifact) as caught:
        open_manifest(generation)
    assert caught.value.path.name == "items.parquet"


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "shards/../../outside",
        "/etc/passwd",
        "shards//0000.faiss",
        "./items.parquet",
        "shards\\0000.faiss",
        ".tmp-x",
        "",
        "a\nb",
        MANIFEST_NAME,
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(generation: Path, name: str):
    (generation.parent / "outside").write_bytes(b"secret")

    def point_outside(fields) -> None:
        fields["files"][name] = fields["files"]["items.parquet"]

    edit(generation, point_outside)
    with pytest.raises(UnsafePath):
        open_manifest(generation)


@pytest.mark.parametrize("name", ["items.parquet", "shards", MANIFEST_NAME])
def test_a_symbolic_link_is_refused(generation: Path, name: str):
    moved = generation.parent / "elsewhere"
    (generation / name).rename(moved)
    (generation / name).symlink_to(moved)
    with pytest.raises(UnsafePath):
        open_manifest(generation)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format_version", 3),
        ("metric", "l2"),
        ("family", "HNSW"),
        ("nlist", 5),
        ("dim", "4"),
        ("item_count", -1),
        ("shard_count", 3),
        ("generation_id", "../g2"),
        ("surprise", 1),
    ],
)
def test_a_field_we_do_not_write_is_refused(generation: Path, field: str, value: object):
    edit(generation, lambda fields: fields.update({field: value}))
    with pytest.raises(ManifestError) as caught:
        open_manifest(generation)
    assert caught.value.path == generation / MANIFEST_NAME


@pytest.mark.parametrize("text", ["", "{", "[]", '{"dim": 1, "dim": 2}', "\xff", "null"])
def test_what_is_no_manifest_is_refused(generation: Path, text: str):
    (generation / MANIFEST_NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError):
        open_manifest(generation)


def test_a_folder_without_manifest_was_never_finished(tmp_path: Path):
    with pytest.raises(ManifestError, match="never finished"):
        open_manifest(tmp_path)


def test_a_generation_lacking_a_part_cannot_be_sealed(generation: Path):
    (generation / "weights.safetensors").unlink()
    before = (generation / MANIFEST_NAME).read_bytes()
    with pytest.raises(ManifestError, match=r"weights\.safetensors"):
        write_manifest(
            generation,
            generation_id="g1",
            encoder_id="e1",
            text_dim=4,
            dim=4,
            family="Flat",
            nlist=0,
            nprobe=0,
            shard_count=2,
            item_count=30,
            catalog_seq=0,
        )
    assert (generation / MANIFEST_NAME).read_bytes() == before
    assert not list(generation.rglob(".tmp-*"))


def test_errors_form_one_tree():
    assert issubclass(CorruptArtifact, ArtifactError)
    assert issubclass(MissingArtifact, ArtifactError)
    assert not issubclass(ManifestError, ValueError)
