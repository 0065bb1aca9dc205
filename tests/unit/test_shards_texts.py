"""Text vectors are found by digest, and by nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.shards.errors import CorruptArtifact, MissingArtifact
from ray_jobs.shards.texts import DIGESTS_NAME, VECTORS_NAME, TextVectors, write_text_vectors


def digest_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@given(texts=st.sets(st.text(max_size=4), max_size=20), others=st.sets(st.text(max_size=4)))
@settings(max_examples=50, deadline=None)
def test_each_digest_finds_its_own_vector(tmp_path_factory, texts, others):
    folder = tmp_path_factory.mktemp("texts")
    digests = [digest_of(text) for text in texts]
    vectors = np.random.default_rng(1).standard_normal((len(digests), 3)).astype(np.float32)
    write_text_vectors(folder, digests, vectors)
    read = TextVectors.open(folder)
    assert len(read) == len(digests)
    found = read.get([*digests, *map(digest_of, others), "", "é" * 32, "f" * 33])
    assert set(found) == set(digests)
    for digest, vector in zip(digests, vectors, strict=True):
        assert np.array_equal(found[digest], vector)


@pytest.mark.parametrize(
    ("digests", "vectors", "message"),
    [
        (["a" * 32, "a" * 32], np.zeros((2, 3), np.float32), "repeat"),
        (["A" * 32], np.zeros((1, 3), np.float32), "hex"),
        (["a" * 31], np.zeros((1, 3), np.float32), "hex"),
        (["a" * 32], np.zeros((2, 3), np.float32), "float32"),
        (["a" * 32], np.zeros((1, 3)), "float32"),
        (["a" * 32], np.full((1, 3), np.inf, np.float32), "finite"),
    ],
)
def test_bad_text_vectors_are_never_written(tmp_path: Path, digests, vectors, message):
    with pytest.raises(ValueError, match=message):
        write_text_vectors(tmp_path, digests, vectors)
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path):
    with pytest.raises(MissingArtifact):
        TextVectors.open(tmp_path)
    write_text_vectors(tmp_path, ["a" * 32], np.zeros((1, 3), np.float32))
    np.save(tmp_path / VECTORS_NAME, np.zeros((2, 3), np.float32))
    with pytest.raises(CorruptArtifact):
        TextVectors.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x93NUMPY\x01\x00"])
def test_bytes_that_are_no_array_are_refused(tmp_path: Path, content: bytes):
    write_text_vectors(tmp_path, ["a" * 32], np.zeros((1, 3), np.float32))
    (tmp_path / DIGESTS_NAME).write_bytes(content)
    with pytest.raises(CorruptArtifact):
        TextVectors.open(tmp_path)
