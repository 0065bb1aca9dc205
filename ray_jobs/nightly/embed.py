"""Step 2. Every text that an item or an event names has a BERT vector.

A text that was embedded before is not embedded again: its vector is taken from the newest
generation of the same encoder, or from what the day stored when the item was put. So online and
batch read the same vectors, and an unchanged catalog costs next to nothing. The rest goes through
a Ray Data actor pool, a copy of BERT an actor; a few are embedded here. What the pool has done is
kept (`kept`), a few thousand texts at a time: after a kill the next try does what is left.

Run: python -m ray_jobs.nightly.embed --generation ID
"""

import logging
import math
from collections.abc import Iterable, Iterator
from functools import partial
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
from ray_jobs.nightly.kept import Kept
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import NIGHT_GPU, Night, Report, cluster_gpus, device_of_cluster, main

log = logging.getLogger("moonlark.night")

ENCODER = b"moonlark.encoder_id"
"""Key of the schema of kept vectors: those of another encoder are of no use."""

KEPT_TEXTS = 2_048
"""Vectors that are kept at a time: some ten seconds of one BERT on one core."""

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

    kept = Kept(night.workspace, "embed")

    def embedded(digests: list[str]) -> Vectors:
        vectors = kept_vectors(kept, encoder.encoder_id)
        texts = _texts_of(night, [digest for digest in digests if digest not in vectors])
        if vectors:
            log.info(
                "%d texts were embedded by a try before, %d are left", len(vectors), len(texts)
            )
        if len(texts) > FEW_TEXTS:
            return vectors | keep_vectors(kept, encoder.encoder_id, _on_the_cluster(workers, texts))
        vectors_ND = encoder.encode(texts["text"].to_pylist())
        return vectors | dict(zip(texts["text_digest"].to_pylist(), vectors_ND, strict=True))

    return embed_with(night, encoder, embedded)


def keep_vectors(kept: Kept, encoder_id: str, parts: Iterable[pa.Table]) -> Vectors:
    """The vectors of all parts {text_digest, vector}; each part is kept as it comes."""
    vectors: Vectors = {}
    for part in parts:
        named = part.replace_schema_metadata({ENCODER: encoder_id})
        kept.keep(f"{part['text_digest'][0]}.parquet", partial(pq.write_table, named))
        vectors |= _vectors_in(part)
    return vectors


def kept_vectors(kept: Kept, encoder_id: str) -> Vectors:
    """What a try before has embedded with that encoder."""
    vectors: Vectors = {}
    for path in kept.files():
        part = pq.read_table(path)
        if (part.schema.metadata or {}).get(ENCODER) == encoder_id.encode():
            vectors |= _vectors_in(part)
    return vectors


def _vectors_in(part: pa.Table) -> Vectors:
    rows = zip(part["text_digest"].to_pylist(), part["vector"].to_pylist(), strict=True)
    return {digest: np.frombuffer(vector, np.float32) for digest, vector in rows}


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


def _on_the_cluster(settings: NightSettings, texts: pa.Table) -> Iterator[pa.Table]:
    """Embed texts by an actor pool: {text_digest, vector} of some thousand as they are done.

    Longest first, so that each batch has like lengths: of film titles in the order of the catalog,
    256 at a time, two fifths of the tokens computed were padding.
    """
    order = pc.sort_indices(pc.utf8_length(texts["text"]), sort_keys=[("", "descending")])
    embedded = (
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
    )
    parts: Iterator[pa.Table] = iter(
        embedded.iter_batches(batch_size=KEPT_TEXTS, batch_format="pyarrow")
    )
    return parts


def _gpu_share(settings: NightSettings) -> float:
    """Of a GPU, for each actor: as many on one as are left over by the others."""
    if settings.bert_device == "cpu":
        return 0.0
    return NIGHT_GPU / math.ceil(settings.embed_workers / cluster_gpus())


if __name__ == "__main__":
    main("embed", embed, needs_ray=True)
