"""The drills' encoder in place of BERT, apart from `app`: its process imports no more than this."""

import numpy as np
from numpy.typing import NDArray

from infra.drills.catalog import ENCODER_ID, embed


class WordsEncoder:
    """The two methods of `serve.text_encoder.TextEncoder`."""

    def embed(self, text: str) -> tuple[str, NDArray[np.float32]]:
        """(encoder id, unit vector (E,))."""
        return ENCODER_ID, embed([text])[0]

    def embed_many(self, texts: list[str]) -> tuple[str, NDArray[np.float32]]:
        """(encoder id, unit vectors (N, E))."""
        return ENCODER_ID, embed(texts)
