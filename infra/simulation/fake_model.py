"""BERT and the trained weights of a simulation: pure functions of a text and of a name.

Small on purpose (8 numbers a vector): what is simulated is the protocol, not the model.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.config import UserLSTMConfig

TEXT_DIM = DIM = HIDDEN = 8
ENCODER_ID = "simulated-bert"
POOLINGS: tuple[Literal["last", "mean", "ema"], ...] = ("last", "mean", "ema")

Floats = NDArray[np.float32]


@cache
def embed_text(text: str) -> Floats:
    """The unit vector (TEXT_DIM,) of a cleaned text."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).normal(size=TEXT_DIM).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


class FakeBert:
    """In place of `item_bert.BertEncoder`."""

    encoder_id = ENCODER_ID
    dim = TEXT_DIM

    def encode(self, texts: Sequence[str]) -> Floats:
        """Unit vectors (N, TEXT_DIM)."""
        if not texts:
            return np.zeros((0, TEXT_DIM), np.float32)
        return np.stack([embed_text(text) for text in texts])


@dataclass(frozen=True, eq=False)
class Model:
    """The weights of one generation, as `weights.write_weights` takes them."""

    config: UserLSTMConfig
    tensors: dict[str, Floats]
    residual_ordinals: NDArray[np.int64]


def make_model(seed: int, ordinals: Sequence[int]) -> Model:
    """Random weights; every third of `ordinals` has a residual."""
    rng = np.random.default_rng(seed)
    residual_ordinals = np.array(sorted(ordinals)[::3], np.int64)
    config = UserLSTMConfig(
        text_dim=TEXT_DIM,
        dim=DIM,
        hidden=HIDDEN,
        pooling=POOLINGS[seed % len(POOLINGS)],
        residual_count=len(residual_ordinals),
    )
    shapes = {
        "text.weight": (DIM, TEXT_DIM),
        "text.bias": (DIM,),
        "unknown": (DIM,),
        "kind": (len(config.kinds), DIM),
        "rating": (config.rating_rows, DIM),
        "lstm.weight_ih": (4 * HIDDEN, DIM),
        "lstm.weight_hh": (4 * HIDDEN, HIDDEN),
        "lstm.bias": (4 * HIDDEN,),
        "out.weight": (DIM, HIDDEN),
        "out.bias": (DIM,),
        "residual": (len(residual_ordinals), DIM),
        "logit_scale": (1,),
    }
    tensors = {
        name: rng.normal(scale=0.7, size=shape).astype(np.float32) for name, shape in shapes.items()
    }
    return Model(config, tensors, residual_ordinals)
