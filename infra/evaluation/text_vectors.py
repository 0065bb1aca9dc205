"""BERT vectors of the items' texts, kept beside the data sets: embedding takes minutes, and every
table needs the same. One file an encoder; what is missing in it is embedded and added.

Shapes: N texts, T text_dim.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.item_bert import BertEncoder, resolve_model
from ray_jobs.encoders.item_text import text_digest
from ray_jobs.shards.atomic import whole_file

CHUNK = 256
"""Texts between two words of progress."""


class TextVectors:
    """Vectors by text. `folder` holds the files; `say` gets a line now and then."""

    def __init__(
        self, folder: Path, bert_model: str | None, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._folder, self._say = folder, say
        self._encoder = BertEncoder(resolve_model(bert_model))
        self._path = folder / f"texts-{self._encoder.encoder_id[:16]}.npz"

    def of(self, texts_N: Sequence[str]) -> NDArray[np.float32]:
        """(N, T)."""
        digests = [text_digest(text) for text in texts_N]
        known = self._read()
        missing = list({d: t for d, t in zip(digests, texts_N, strict=True) if d not in known})
        by_digest = dict(zip(digests, texts_N, strict=True))
        for first in range(0, len(missing), CHUNK):
            self._say(f"embedding texts: {first} of {len(missing)}")
            chunk = missing[first : first + CHUNK]
            vectors = self._encoder.encode([by_digest[digest] for digest in chunk])
            known.update(zip(chunk, vectors, strict=True))
        if missing:
            self._write(known)
        return np.stack([known[digest] for digest in digests]).astype(np.float32)

    def _read(self) -> dict[str, NDArray[np.float32]]:
        if not self._path.is_file():
            return {}
        with np.load(self._path, allow_pickle=False) as file:
            return dict(zip(file["digests"].tolist(), file["vectors"], strict=True))

    def _write(self, known: dict[str, NDArray[np.float32]]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, digests=np.array(list(known)), vectors=np.stack(list(known.values())))
