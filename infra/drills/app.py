"""The shipped gateway with the words encoder beside it, in place of BERT, on a clock that a drill
can step.

Deployed by `infra.drills.stack`; nothing of the gateway is replaced.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve as ray_serve

from infra.drills.catalog import ENCODER_ID, embed
from infra.drills.clock import stepped_clock_ms
from serve.app import SHARD_SERVER, assembled
from serve.settings import ServeSettings


class WordsEncoder:
    """The two methods of `serve.text_encoder.TextEncoder`."""

    def embed(self, text: str) -> tuple[str, NDArray[np.float32]]:
        """(encoder id, unit vector (E,))."""
        return ENCODER_ID, embed([text])[0]

    def embed_many(self, texts: list[str]) -> tuple[str, NDArray[np.float32]]:
        """(encoder id, unit vectors (N, E))."""
        return ENCODER_ID, embed(texts)


WORDS_ENCODER = ray_serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})(
    WordsEncoder
)


def build(_: Mapping[str, Any] | None = None) -> ray_serve.Application:
    """The application as the environment says (`MOONLARK_...`)."""
    encoder = WORDS_ENCODER.bind()
    return assembled(ServeSettings(), encoder, SHARD_SERVER, stepped_clock_ms)
