"""A generation goes to an object store and comes back as it was, or is refused by name."""

import os
import pickle
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.cli.erase_scan import scan_objects
from ray_jobs.shards import carry
from ray_jobs.shards.carry import delete_generation, discard_copies, fetch_generation
from ray_jobs.shards.errors import (
    BadStoreUri,
    CorruptArtifact,
    DamagedObject,
    MissingObject,
    StoreAway,
)
from ray_jobs.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    manifest_digest,
    open_manifest,
    shard_name,
    verify,
)
from ray_jobs.shards.object_store import ObjectStore
from tests.contract.s3_server import CREDENTIALS, S3Server, s3_server
from tests.unit.shards_builder import grid_vectors, write_generation


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """The same promises of a mounted folder and of a bucket."""
    uri = f"file://{tmp_path}/store"
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("server")
        uri = server.uri(f"shop-{uuid4().hex[:8]}/artifacts")
    opened = ObjectStore.open(uri)
    assert opened is not None
    return opened


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Manifest]:
    directory = tmp_path / "maker" / "generations" / "g1"
    vectors = grid_vectors(np.random.default_rng(1), 40, 4)
    return directory, write_generation(directory, vectors, np.arange(40, dtype=np.int64))


def test_a_generation_comes_back_whole_and_only_once_a_node(
    store: ObjectStore, made: tuple[Path, Manifest], tmp_path: Path
) -> None:
    directory, manifest = made
    sent = carry.upload_generation(store, directory, manifest)
    assert sent == sum(entry.size for entry in manifest.files.values())
    node, digest = tmp_path / "node", manifest_digest(directory)
    fetch_generation(store, node, "g1", digest)
    copy = node / "generations" / "g1"
    verify(copy, open_manifest(copy))
    assert manifest_digest(copy) == digest
    assert [path.name for path in (node / "generations").iterdir()] == ["g1"]
    delete_generation(store, "g1")
    delete_generation(store, "g1")
    assert store.sizes("generations") == {}
    assert fetch_generation(store, node, "g1", digest) == copy  # what is here is not asked for
    with pytest.raises(MissingObject, match=r"g1/MANIFEST\.json: no such object"):
        fetch_generation(store, tmp_path / "another node", "g1", digest)
    assert discard_copies(node, ["g0", "g1"]) == ["g1"]
    assert not copy.exists()


def test_many_replicas_of_a_node_fetch_once(
    store: ObjectStore,
    made: tuple[Path, Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory, manifest = made
    carry.upload_generation(store, directory, manifest)
    fetched: list[str] = []
    get = ObjectStore.get

    def counted(self: ObjectStore, name: str, *rest: object) -> None:
        fetched.append(name)
        get(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectStore, "get", counted)
    node, digest = tmp_path / "node", manifest_digest(directory)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch_generation(store, node, "g1", digest), range(4)))
    assert set(found) == {node / "generations" / "g1"}
    assert len(fetched) == len(manifest.files)


def test_a_flipped_byte_is_refused_by_its_name_and_leaves_nothing(
    store: ObjectStore, made: tuple[Path, Manifest], tmp_path: Path
) -> None:
    directory, manifest = made
    carry.upload_generation(store, directory, manifest)
    name = f"generations/g1/{shard_name(1)}"
    content = bytearray((directory / shard_name(1)).read_bytes())
    content[len(content) // 2] ^= 1
    store.put_bytes(bytes(content), name)
    node = tmp_path / "node"
    for damaged in (bytes(content), bytes(content[:-1]), bytes(content) + b"x"):
        store.put_bytes(damaged, name)
        with pytest.raises(DamagedObject, match=rf"{name}: expected sha256") as told:
            fetch_generation(store, node, "g1", manifest_digest(directory))
        assert "?" not in told.value.place
        assert list((node / "generations").iterdir()) == []


def test_a_manifest_that_is_not_the_sealed_one_is_refused(
    store: ObjectStore, made: tuple[Path, Manifest], tmp_path: Path
) -> None:
    directory, manifest = made
    carry.upload_generation(store, directory, manifest)
    with pytest.raises(DamagedObject, match=r"g1/MANIFEST\.json: expected sha256 0000"):
        fetch_generation(store, tmp_path / "node", "g1", "0" * 64)


def test_a_file_that_changed_since_the_seal_never_becomes_a_generation(
    store: ObjectStore, made: tuple[Path, Manifest]
) -> None:
    directory, manifest = made
    path = directory / "weights.safetensors"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(CorruptArtifact, match=r"weights\.safetensors"):
        carry.upload_generation(store, directory, manifest)
    assert f"generations/g1/{MANIFEST_NAME}" not in store.sizes("generations/g1")


def test_what_a_step_put_before_is_not_sent_again(
    store: ObjectStore, made: tuple[Path, Manifest]
) -> None:
    directory, manifest = made
    name = "items.parquet"
    there = {
        name: store.put(directory / name, f"generations/g1/{name}"),
        shard_name(0): manifest.files[shard_name(0)],  # said to be there, and is not
    }
    sent = carry.upload_generation(store, directory, manifest, there=there)
    assert sent == sum(e.size for each, e in manifest.files.items() if each != name)


def test_a_large_file_passes_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(np.random.default_rng(1).bytes((17 << 20) + 1))
    entry = store.put(source, "large")
    assert store.sizes("") == {"large": entry.size}
    store.get("large", target, entry)
    assert target.read_bytes() == source.read_bytes()


def test_a_store_that_is_away_says_so_with_the_object_and_without_secrets(tmp_path: Path) -> None:
    nobody = "s3://moonlark/gone?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1"
    with (
        mock.patch.dict(os.environ, CREDENTIALS),
        pytest.raises(StoreAway, match=r"s3://moonlark/gone/generations/g1/MANIFEST\.json: .*conn"),
    ):
        fetch_generation(ObjectStore(nobody), tmp_path, "g1", None)
    secret = uuid4().hex
    with pytest.raises(BadStoreUri, match="there are credentials in it") as told:
        ObjectStore.open(f"s3://key:{secret}@moonlark/shop?region=us-east-1")
    assert secret not in "".join(traceback.format_exception(told.value))
    with pytest.raises(BadStoreUri, match="opens no such URI") as told:
        ObjectStore.open(f"s4://moonlark/shop?password={secret}")
    assert secret not in "".join(traceback.format_exception(told.value))
    assert secret not in repr(ObjectStore(f"file:///mnt?password={secret}"))


def test_a_store_can_be_handed_to_another_process(store: ObjectStore) -> None:
    store.put_bytes(b"here", "note")
    again: ObjectStore = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    assert again.get_bytes("note", 4) == b"here"
    with pytest.raises(DamagedObject, match="at most 3 bytes"):
        again.get_bytes("note", 3)


def test_the_scan_for_an_erased_user_looks_into_every_object(
    store: ObjectStore, tmp_path: Path
) -> None:
    rows = tmp_path / "events.parquet"
    pq.write_table(pa.table({"text": ["x" * 100, "canary search"]}), rows, compression="zstd")
    store.put(rows, "work/g1/events.parquet")
    store.put_bytes(b'{"user": "canary"}', "generations/g1/odd.json")
    store.put_bytes(b"{}", "work/g1/export.json")
    names = sorted(store.sizes(""))
    assert names == ["generations/g1/odd.json", "work/g1/events.parquet", "work/g1/export.json"]
    found = list(scan_objects(store, [*names, "work/g2/gone.json"], ["canary"]))
    assert found == [store.place(name) for name in names[:2]]
    assert list(scan_objects(store, names, ["nobody"])) == []
