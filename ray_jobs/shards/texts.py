"""The BERT vectors of a generation's texts: sorted digests beside their vectors, memory-mapped.

    texts.digests.npy   S32 [T], ascii hex (blake2b-128), sorted, no repeats
    texts.vectors.npy   float32 [T, text_dim], row i belongs to digest i

They feed the fold (an event stores its text's digest) and the next night (an unchanged text is not
embedded again). T = texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.errors import CorruptArtifact, MissingArtifact

DIGESTS_NAME = "texts.digests.npy"
VECTORS_NAME = "texts.vectors.npy"
DIGEST_CHARS = 32
_HEX = frozenset(b"0123456789abcdef")


class TextVectors:
    """Read-only view of both files. Open once, share between threads."""

    def __init__(self, digests: NDArray[Any], vectors_TD: NDArray[Any]) -> None:
        self._digests = digests
        self._vectors_TD = vectors_TD

    @classmethod
    def open(cls, directory: Path) -> TextVectors:
        """Maps the two files; no vector is read yet. Raises MissingArtifact, CorruptArtifact."""
        digests = _map(directory / DIGESTS_NAME)
        vectors_TD = _map(directory / VECTORS_NAME)
        if digests.dtype != np.dtype(f"S{DIGEST_CHARS}") or digests.ndim != 1:
            raise CorruptArtifact(
                directory / DIGESTS_NAME,
                expected=f"S{DIGEST_CHARS} [T]",
                actual=f"{digests.dtype} {list(digests.shape)}",
            )
        if (
            vectors_TD.dtype != np.dtype("<f4")
            or vectors_TD.ndim != 2
            or len(vectors_TD) != len(digests)
        ):
            raise CorruptArtifact(
                directory / VECTORS_NAME,
                expected=f"float32 [{len(digests)}, text_dim]",
                actual=f"{vectors_TD.dtype} {list(vectors_TD.shape)}",
            )
        return cls(digests, vectors_TD)

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def text_dim(self) -> int:
        return int(self._vectors_TD.shape[1])

    def get(self, digests: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors (text_dim,) of those digests that are here; the others are left out."""
        wanted = [digest for digest in dict.fromkeys(digests) if len(digest) == DIGEST_CHARS]
        rows = self.rows_of(wanted)
        return {
            digest: np.array(self._vectors_TD[row])
            for digest, row in zip(wanted, rows.tolist(), strict=True)
            if row >= 0
        }

    def rows_of(self, digests: Sequence[str]) -> NDArray[np.int64]:
        """Row of each digest, -1 where it is not here: (N,)."""
        keys = np.array([digest.encode("utf-8") for digest in digests], dtype=np.bytes_)
        if len(self._digests) == 0 or len(keys) == 0:
            return np.full(len(keys), -1, dtype=np.int64)
        rows = np.searchsorted(self._digests, keys)
        rows = np.minimum(rows, len(self._digests) - 1)
        return np.where(self._digests[rows] == keys, rows, -1).astype(np.int64)

    def digests_at(self, rows: NDArray[np.int64]) -> list[str]:
        """The digests of those rows."""
        return [digest.decode("ascii") for digest in self._digests[rows].tolist()]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All vectors (T, text_dim), mapped: index it by `rows_of`, do not copy it whole."""
        return self._vectors_TD


def write_text_vectors(
    directory: Path, digests: Sequence[str], vectors_TD: NDArray[np.float32]
) -> None:
    """Sorts by digest and writes both files, each atomically.

    Raises ValueError for digests that are not 32 lower-case hex characters or repeat, and for
    vectors that are not finite float32 [T, text_dim].
    """
    if vectors_TD.dtype != np.float32 or vectors_TD.ndim != 2 or len(vectors_TD) != len(digests):
        raise ValueError(
            f"vectors must be float32 [{len(digests)}, text_dim], "
            f"got {vectors_TD.dtype} {list(vectors_TD.shape)}"
        )
    for digest in digests:
        if len(digest) != DIGEST_CHARS or not _HEX.issuperset(digest.encode("utf-8")):
            raise ValueError(f"a digest is {DIGEST_CHARS} hex characters, got {digest!r}")
    if not bool(np.isfinite(vectors_TD).all()):
        raise ValueError("vectors must be finite")
    keys = np.array([digest.encode("ascii") for digest in digests], dtype=f"S{DIGEST_CHARS}")
    if bool(np.any(keys[1:] < keys[:-1])):
        order = np.argsort(keys, kind="stable")
        keys, vectors_TD = keys[order], vectors_TD[order]
    repeats = keys[1:][keys[1:] == keys[:-1]]
    if len(repeats):
        raise ValueError(f"{len(repeats)} digests repeat, the first is {repeats[0].decode()!r}")
    _save(directory / VECTORS_NAME, np.ascontiguousarray(vectors_TD))
    _save(directory / DIGESTS_NAME, keys)


def _save(path: Path, array: NDArray[np.generic]) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _map(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise MissingArtifact(path)
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:  # bad magic, truncated, or an object array
        raise CorruptArtifact(path, expected="a .npy array", actual=str(error)) from error
    # Mapped all the same; but each row taken of an np.memmap costs 5 us for being one too.
    return array.view(np.ndarray)
