"""Step 2. Every text that an item or an event names has a BERT vector.

A text that was embedded before is not embedded again: its vector is taken from the newest
generation of the same encoder, or from what the day stored when the item was put. So online and
batch read the same vectors, and an unchanged catalog costs next to nothing. The rest goes through
a Ray Data actor pool, a copy of BERT an actor; a few are embedded here.

Run: python -m ray_jobs.nightly.embed --generation ID
"""

import math
import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray

from ray_jobs.encoders.item_bert import open_bert
from ray_jobs.nightly.embed_missing import Vectors, embed_with
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import NIGHT_GPU, Night, Report, cluster_gpus, device_of_cluster, main

FEW_TEXTS = 1_000
"""So many this process embeds itself, with the BERT that it holds for the canaries: actors and
their torch take as long to start (8 s measured) as these to be embedded."""


def embed(night: Night) -> Report:
    """Write texts.digests.npy and texts.vectors.npy of the generation."""
    device = device_of_cluster(night.settings.bert_device)
    # This process may be on a node without a GPU, and the canaries do not need one.
    own = night.settings.model_copy(update={"device": "auto" if device == "cuda" else "cpu"})
    workers = night.settings.model_copy(update={"device": device})
    encoder = open_bert(own)

    def embedded(digests: list[str]) -> Vectors:
        if len(digests) > FEW_TEXTS:
            return _on_the_cluster(night, workers, digests)
        texts = _texts_of(night, digests)
        vectors_ND = encoder.encode(texts["text"].to_pylist())
        return dict(zip(texts["text_digest"].to_pylist(), vectors_ND, strict=True))

    return embed_with(night, encoder, embedded)


class Embedder:
    """An actor of the pool: one BERT, batches of {text_digest, text} in, vectors added."""

    def __init__(self, settings: NightSettings) -> None:
        torch.set_num_threads(1)
        self._encoder = open_bert(settings)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, Any]:
        vectors = self._encoder.encode([str(text) for text in batch["text"]])
        # Bytes, not a tensor column: Parquet then needs no Ray to be read.
        packed = np.array([vector.tobytes() for vector in vectors], dtype=object)
        return {"text_digest": batch["text_digest"], "vector": packed}


def _texts_of(night: Night, digests: list[str]) -> pa.Table:
    """The rows of the exported texts with these digests."""
    table = pq.read_table(night.workspace.texts)
    return table.filter(pc.is_in(table["text_digest"], value_set=pa.array(digests, pa.string())))


def _on_the_cluster(night: Night, settings: NightSettings, digests: list[str]) -> Vectors:
    """Embed the texts of `digests` by an actor pool; parts are kept until all are there.

    Longest first, so that each batch has like lengths: of film titles in the order of the catalog,
    256 at a time, two fifths of the tokens computed were padding.
    """
    parts = night.workspace.work / "embedded"
    shutil.rmtree(parts, ignore_errors=True)  # a run that broke off: its parts may be torn
    texts = _texts_of(night, digests)
    order = pc.sort_indices(pc.utf8_length(texts["text"]), sort_keys=[("", "descending")])
    (
        ray.data.from_arrow(texts.take(order))
        .repartition(target_num_rows_per_block=settings.embed_batch)
        .map_batches(
            Embedder,
            fn_constructor_args=(settings,),
            batch_size=settings.embed_batch,
            compute=ray.data.ActorPoolStrategy(size=settings.embed_workers),
            num_cpus=1,
            num_gpus=_gpu_share(settings) or None,
        )
        .write_parquet(str(parts))
    )
    result = pq.read_table(parts)
    rows = zip(result["text_digest"].to_pylist(), result["vector"].to_pylist(), strict=True)
    return {digest: np.frombuffer(vector, np.float32) for digest, vector in rows}


def _gpu_share(settings: NightSettings) -> float:
    """Of a GPU, for each actor: as many on one as are left over by the others."""
    if settings.bert_device == "cpu":
        return 0.0
    return NIGHT_GPU / math.ceil(settings.embed_workers / cluster_gpus())


if __name__ == "__main__":
    main("embed", embed, needs_ray=True)
