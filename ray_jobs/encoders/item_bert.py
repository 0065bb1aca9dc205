"""Text becomes a BERT vector, the same by night and by day.

Mean pooling over the mask, unit length (the recipe of sentence-transformers/all-MiniLM-L6-v2).
Batches are of like lengths: 3.3 times faster than padding to 128 (ANCHORS.md). `bert_forward`
multiplies, in the precision that MOONLARK_BERT_PRECISION says.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ray_jobs.encoders.bert_forward import Forward, MakeForward, forward_of
from ray_jobs.encoders.bert_settings import BertSettings, Precision, device_of
from ray_jobs.encoders.errors import ModelNotFound, ModelUnusable
from ray_jobs.encoders.item_text import CLEANING_VERSION

DEFAULT_MODEL = Path(".moonlark/models/all-MiniLM-L6-v2")
POOLING = "mean"
MAX_PADDING = 1.08
"""Tokens computed for each real one, in any batch of more than FEW_TOKENS."""
FEW_TOKENS = 128
"""A batch of so many is not cut for its padding: below, products of matrices lose more."""


def resolve_model(setting: str | None) -> Path | str:
    """A folder, or the name of a model on the Hugging Face hub.

    None means the folder that `python -m infra.datasets` fills. A setting that names an existing
    folder is that folder; one of the form "owner/name" without such a folder is a hub name.

    Raises:
        ModelNotFound: the folder does not exist or holds no config.json.
    """
    folder = Path(setting) if setting is not None else DEFAULT_MODEL
    if (folder / "config.json").is_file():
        return folder
    looks_like_hub = setting is not None and setting.count("/") <= 1 and not folder.exists()
    if setting is not None and looks_like_hub and not setting.startswith((".", "/", "~")):
        return setting
    raise ModelNotFound(folder)


def open_bert(settings: BertSettings) -> "BertEncoder":
    """As the settings say; the GPU is this machine's.

    Raises:
        EncoderError: the model, its runtime or the GPU is not there.
    """
    device = device_of(settings.bert_device, torch.cuda.device_count(), "on this machine")
    return BertEncoder(
        resolve_model(settings.bert_model), device=device, precision=settings.bert_precision
    )


class BertEncoder:
    """A frozen BERT: texts in, unit rows out. Not safe for two threads at once.

    Args:
        model: what `resolve_model` gave. A folder is never looked up on the network.
        device: a torch device.
        max_tokens: longer texts are cut there (never above what the model has positions for).
        batch_tokens: tokens, padding counted, of one forward pass: bounds the memory.
        precision: of weights and products, and with which runtime.
        make_forward: for experiments; what ships is the default.

    Raises:
        ModelUnusable: no safetensors, no tokenizer, or no such model.
        RuntimeMissing: this machine cannot run that precision.
    """

    def __init__(
        self,
        model: Path | str,
        device: str = "cpu",
        max_tokens: int = 256,
        batch_tokens: int = 4096,
        precision: Precision = "fp32",
        make_forward: MakeForward = forward_of,
    ) -> None:
        if max_tokens < 2 or batch_tokens < max_tokens:
            raise ValueError(
                f"need 2 <= max_tokens <= batch_tokens, got {max_tokens}, {batch_tokens}"
            )
        self._tokenizer, bert = _load(model)
        positions = int(getattr(bert.config, "max_position_embeddings", max_tokens))
        self.max_tokens = min(max_tokens, positions)
        self.batch_tokens = batch_tokens
        self.precision: Precision = precision
        self.dim: int = int(bert.config.hidden_size)
        # Now: `encode` leaves its truncation in the tokenizer, and may run in another thread later.
        self.encoder_id: str = self._identity(bert)
        self._states: Forward = make_forward(bert, precision, device)

    def _identity(self, bert: Any) -> str:
        """32 hex characters that change whenever a text's vector could.

        Covers weights, tokenizer, cleaning, precision and its runtime, pooling and the cut; not the
        device. The pooler head is left out: we do not use it, and transformers invents it where it
        is missing.
        """
        digest = hashlib.blake2b(digest_size=16)
        meaning = (CLEANING_VERSION, self.precision, POOLING, self.max_tokens)
        digest.update(repr(meaning).encode())
        digest.update(self._tokenizer.backend_tokenizer.to_str().encode())
        digest.update(bert.config.model_type.encode())
        for name, tensor in sorted(bert.state_dict().items()):
            if not name.startswith("pooler."):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def encode(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """Unit vectors (N, dim) of cleaned texts, in the order given.

        `progress` gets the number of texts just done, after each batch. An empty text is encoded
        as BERT's frame tokens, a vector like any other.
        """
        vectors_ND = np.zeros((len(texts), self.dim), dtype=np.float32)
        if not texts:
            return vectors_ND
        ids = self.token_ids(texts)
        for rows in batches([len(row) for row in ids], self.batch_tokens):
            vectors_ND[rows] = self._forward([ids[row] for row in rows])
            if progress is not None:
                progress(len(rows))
        return vectors_ND

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """What BERT reads of each text, its frame included, cut at `max_tokens`."""
        ids: list[list[int]] = self._tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, padding=False
        )["input_ids"]
        return ids

    @torch.inference_mode()
    def _forward(self, ids: list[list[int]]) -> NDArray[np.float32]:
        width = max(len(row) for row in ids)
        tokens_BL = torch.full((len(ids), width), self._tokenizer.pad_token_id or 0)
        mask_BL = torch.zeros((len(ids), width), dtype=torch.long)
        for index, row in enumerate(ids):
            tokens_BL[index, : len(row)] = torch.tensor(row)
            mask_BL[index, : len(row)] = 1
        states_BLD = self._states(tokens_BL, mask_BL)
        weights_BL1 = mask_BL.unsqueeze(-1).to(states_BLD)
        means_BD = (states_BLD * weights_BL1).sum(1) / weights_BL1.sum(1)
        unit_BD: NDArray[np.float32] = (
            torch.nn.functional.normalize(means_BD, dim=-1).float().cpu().numpy()
        )
        return unit_BD


def _load(model: Path | str) -> tuple[Any, Any]:
    """Tokenizer and model; weights as safetensors only, no code from the model's author."""
    local = isinstance(model, Path)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for 0.1 s of loading, in every worker's log
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model, use_fast=True, trust_remote_code=False, local_files_only=local
        )
        bert = AutoModel.from_pretrained(
            model,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=local,
            dtype=torch.float32,
        )
    except (OSError, ValueError) as error:
        raise ModelUnusable(str(model), str(error)) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelUnusable(str(model), "it has no fast tokenizer")
    return tokenizer, bert


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers, longest first, in batches of at most `batch_tokens` tokens with padding.

    Longest first, so that a batch too big for the memory fails at the start, not after an hour. A
    batch ends, too, where one row more would make more than MAX_PADDING of it.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(order):
        width = max(1, lengths[order[start]])
        stop, real = start + 1, lengths[order[start]]
        for row in order[stop : start + max(1, batch_tokens // width)]:
            padded = width * (stop + 1 - start)
            if padded > max(FEW_TOKENS, MAX_PADDING * (real + lengths[row])):
                break
            stop, real = stop + 1, real + lengths[row]
        yield order[start:stop]
        start = stop
