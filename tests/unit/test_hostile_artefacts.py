"""Files that were made to harm: refused by name before anything parses them. No pickle anywhere."""

import ast
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs.encoders.errors import WeightsError
from ray_jobs.encoders.weights import load_weights
from ray_jobs.shards.errors import ShardsError
from ray_jobs.shards.manifest import MANIFEST_NAME, open_manifest, verify
from tests.unit.shards_builder import grid_vectors, write_generation

ROOT = Path(__file__).parents[2]
PACKAGES = ("sql", "ray_jobs", "serve", "dags", "infra")


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


WEIGHTS: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"1234567",
    "a header of 2**63 bytes": safetensors({}, length=2**63),
    "a header longer than the file": safetensors({}, length=10_000),
    "a header of 200 MB": safetensors(b" " * 10, length=200_000_000),
    "no JSON": safetensors(b"{{{{"),
    "deep JSON": safetensors(b'{"a":' * 5_000),
    "a list": safetensors([]),
    "overlap": safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, b"x" * 12),
    "a hole": safetensors({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, b"x" * 12),
    "beyond the end": safetensors({"a": tensor(0, 400, [100])}, b"x" * 4),
    "begins after its end": safetensors({"a": tensor(8, 4, [1])}, b"x" * 8),
    "negative": safetensors({"a": tensor(-4, 0, [1])}, b"x" * 4),
    "a shape that overflows": safetensors({"a": tensor(0, 4, [2**62, 2**62])}, b"x" * 4),
    "a shape that is not its size": safetensors({"a": tensor(0, 4, [2])}, b"x" * 4),
    "an unknown type": safetensors({"a": tensor(0, 4, [1], "OBJ")}, b"x" * 4),
    "a type twice as wide": safetensors({"a": tensor(0, 4, [1], "F64")}, b"x" * 4),
    "the same tensor twice": safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"x" * 4,
    ),
    "bytes after the last": safetensors({"a": tensor(0, 4, [1])}, b"x" * 999),
    "zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_crafted_weights_are_refused_by_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(WEIGHTS[name])
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert caught.value.path == path


def test_a_pickle_in_place_of_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    path, went_off = tmp_path / "weights.safetensors", tmp_path / "went-off"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Bomb(went_off), protocol))
        with pytest.raises(WeightsError):
            load_weights(path)
    assert not went_off.exists()


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_weights_that_are_no_plain_file_are_refused_and_do_not_hang(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "weights.safetensors"
    make_other(path, kind)
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert caught.value.path == path


def make_other(path: Path, kind: str) -> None:
    """Something that is not a plain file, at `path`."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        other = path.with_name("other")
        other.write_bytes(b"x")
        path.symlink_to(other)


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    folder = tmp_path / "g1"
    vectors = grid_vectors(np.random.default_rng(1), 30, 4)
    write_generation(folder, vectors, np.arange(30, dtype=np.int64))
    return folder


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
@pytest.mark.parametrize("name", [MANIFEST_NAME, "items.parquet", "shards/0000.faiss"])
def test_a_generation_with_something_else_than_files_is_refused(
    generation: Path, name: str, kind: str
) -> None:
    (generation / name).unlink()
    make_other(generation / name, kind)
    with pytest.raises(ShardsError):
        open_manifest(generation)


HOSTILE_MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "out": lambda m: m["files"].update({"../x": m["files"]["items.parquet"]}),
    "absolute": lambda m: m["files"].update({"/etc/passwd": m["files"]["items.parquet"]}),
    "nul": lambda m: m["files"].update({"a\0b": m["files"]["items.parquet"]}),
    "size": lambda m: m["files"]["items.parquet"].update(size=10**30),
    "digest": lambda m: m["files"]["items.parquet"].update(sha256="../../etc"),
    "dim": lambda m: m.update(dim=10**12),
    "shards": lambda m: m.update(shard_count=10**12),
    "surrogate": lambda m: m["files"].update({"\ud800": m["files"]["items.parquet"]}),
}


@pytest.mark.parametrize("name", HOSTILE_MANIFESTS)
def test_a_hostile_manifest_is_refused(generation: Path, name: str) -> None:
    path = generation / MANIFEST_NAME
    fields = json.loads(path.read_text())
    HOSTILE_MANIFESTS[name](fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(ShardsError):
        open_manifest(generation)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000, "NaN"])
def test_a_manifest_that_harms_the_parser_is_refused(generation: Path, text: str) -> None:
    (generation / MANIFEST_NAME).write_text(text)
    with pytest.raises(ShardsError):
        open_manifest(generation)


def test_another_file_of_the_same_size_is_refused_by_its_digest(generation: Path) -> None:
    path = generation / "items.parquet"
    manifest = open_manifest(generation)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ShardsError, match=r"items\.parquet"):
        verify(generation, manifest)


PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def pickles_of(source: str) -> list[str]:
    """Where a module could unpickle: imports, `torch.load`, `allow_pickle=`, `read_pickle`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES:
            found.append(str(node.module))
        elif isinstance(node, ast.Attribute) and node.attr in ("read_pickle", "to_pickle"):
            found.append(node.attr)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            is_false = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if is_false else ["allow_pickle"]
    return found


def test_no_pickle_is_read_or_written_anywhere() -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(paths) > 100
    found = {str(path): pickles_of(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from joblib import load", "torch.load(p)", "np.load(p, allow_pickle=x)"],
)
def test_the_search_for_pickles_finds_one(source: str) -> None:
    assert pickles_of(source)
