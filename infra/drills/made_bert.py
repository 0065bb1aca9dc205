"""A BERT of random weights in a folder, for drills whose jobs are the shipped ones, embedding too.

Texts that share words are close, as much as the drills ask for; nothing needs to be fetched.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer
from transformers.utils import logging as transformers_logging

from infra.drills.catalog import TEXT_DIM, TOPICS

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NUMBERS = 40
PIECES = (
    *SPECIAL,
    *TOPICS,
    *(f"##{mark}{number}" for mark in ("", "w") for number in range(NUMBERS)),
)
"""WordPiece of the titles of `infra.drills.small_night`: `space spacew3 spacew4 space17`."""


def make_bert(folder: Path, pieces: Sequence[str] = PIECES, seed: int = 0) -> Path:
    """Write config, weights and tokenizer to `folder`, which is made; returns it."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder.mkdir()
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=TEXT_DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * TEXT_DIM,
        max_position_embeddings=40,
    )
    BertTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}).save_pretrained(folder)
    BertModel(config).save_pretrained(folder)
    return folder
