"""Step 2. Every text that an item or an event names has a BERT vector.

A text that was embedded before is not embedded again: its vector is taken from the newest
generation of the same encoder, or from what the day stored when the item was put. So online and
batch read the same vectors, and an unchanged catalog costs next to nothing. The rest goes through
a Ray Data actor pool, a copy of BERT an actor.

Run: python -m ray_jobs.nightly.embed --generation ID
"""

import shutil
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray

from ray_jobs.encoders.item_bert import BertEncoder, resolve_model
from ray_jobs.encoders.item_text import clean
from ray_jobs.nightly import canary
from ray_jobs.nightly.event_vectors import write_event_vectors
from ray_jobs.nightly.step import Night, Report, main
from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.shards.texts import TextVectors, write_text_vectors
from sql import catalog, events, generations
from sql.engine import read_snapshot

Vectors = dict[str, NDArray[np.float32]]

CHUNK = 10_000


def embed(night: Night) -> Report:
    """Write texts.digests.npy and texts.vectors.npy of the generation."""
    exported = night.workspace.require_report("export")
    encoder = BertEncoder(resolve_model(night.settings.bert_model))
    generations.register(
        night.engine,
        night.generation_id,
        encoder_id=encoder.encoder_id,
        catalog_seq=exported["catalog_seq"],
        event_count=exported["events"],
        user_count=exported["users"],
        created_at_ms=exported["created_at_ms"],
    )
    digests = _column(night, "text_digest")
    known = _reused(night, encoder.encoder_id, digests)
    missing = sorted(set(digests) - known.keys())
    reused = sorted(known)
    known.update(_embedded(night, missing))
    vectors_ND = (
        np.stack([known[d] for d in digests]) if digests else np.zeros((0, encoder.dim), np.float32)
    )
    write_text_vectors(night.workspace.directory, digests, vectors_ND)
    event_texts = _embed_event_texts(night, encoder)
    return {
        "encoder_id": encoder.encoder_id,
        "text_dim": encoder.dim,
        "texts": len(digests),
        "embedded": len(missing),
        "reused": len(digests) - len(missing),
        "event_texts_embedded": event_texts,
        **_canaries(night, encoder, reused, missing, known),
    }


class Embedder:
    """An actor of the pool: one BERT, batches of {text_digest, text} in, vectors added."""

    def __init__(self, bert_model: str | None) -> None:
        torch.set_num_threads(1)
        self._encoder = BertEncoder(resolve_model(bert_model))

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, Any]:
        vectors = self._encoder.encode([str(text) for text in batch["text"]])
        # Bytes, not a tensor column: Parquet then needs no Ray to be read.
        packed = np.array([vector.tobytes() for vector in vectors], dtype=object)
        return {"text_digest": batch["text_digest"], "vector": packed}


def _column(night: Night, name: str) -> list[str]:
    column: list[str] = pq.read_table(night.workspace.texts, columns=[name])[name].to_pylist()
    return column


def _reused(night: Night, encoder_id: str, digests: list[str]) -> Vectors:
    with read_snapshot(night.engine) as conn:
        earlier = [
            g
            for g in generations.list_generations(conn)
            if g.encoder_id == encoder_id and g.generation_id != night.generation_id
        ]
        reused = catalog.read_item_vectors(conn, encoder_id, digests)
    newest_first = sorted(earlier, key=lambda g: g.created_at_ms, reverse=True)
    for generation in newest_first:
        directory = generation_directory(night.workspace.root, generation.generation_id)
        if (directory / "MANIFEST.json").exists():
            stored = TextVectors.open(directory).get(digests)
            reused.update({d: v for d, v in stored.items() if d not in reused})
            break
    return reused


def _embedded(night: Night, digests: list[str]) -> Vectors:
    """Embed the texts of `digests` on the cluster; parts are kept until all are there."""
    if not digests:
        return {}
    parts = night.workspace.work / "embedded"
    shutil.rmtree(parts, ignore_errors=True)  # a run that broke off: its parts may be torn
    table = pq.read_table(night.workspace.texts)
    wanted = pa.array(digests)
    table = table.filter(pa.compute.is_in(table["text_digest"], value_set=wanted))
    settings = night.settings
    (
        ray.data.from_arrow(table)
        .repartition(target_num_rows_per_block=settings.embed_batch)
        .map_batches(
            Embedder,
            fn_constructor_args=(settings.bert_model,),
            batch_size=settings.embed_batch,
            compute=ray.data.ActorPoolStrategy(size=settings.embed_workers),
            num_cpus=1,
        )
        .write_parquet(str(parts))
    )
    result = pq.read_table(parts)
    rows = zip(result["text_digest"].to_pylist(), result["vector"].to_pylist(), strict=True)
    return {digest: np.frombuffer(vector, np.float32) for digest, vector in rows}


def _canaries(
    night: Night, encoder: BertEncoder, reused: list[str], new: list[str], vectors: Vectors
) -> Report:
    """Some texts embedded again, reused ones first: what the gate looks at."""
    seed = zlib.crc32(night.generation_id.encode())
    chosen = [reused[row] for row in canary.choose(len(reused), seed)]
    chosen += [new[row] for row in canary.choose(len(new), seed, canary.CANARIES - len(chosen))]
    table = pq.read_table(night.workspace.texts)
    table = table.filter(pa.compute.is_in(table["text_digest"], value_set=pa.array(chosen)))
    columns = (table[name].to_pylist() for name in ("text_digest", "text"))
    texts: Mapping[str, str] = dict(zip(*columns, strict=True))
    return {
        "canary_texts": len(texts),
        "canary_min_cosine": canary.min_cosine(encoder, texts, vectors),
    }


def _embed_event_texts(night: Night, encoder: BertEncoder) -> int:
    """Vectors of searches and comments: as the day stored them; embedded where it could not.

    What is embedded here is stored too, so that a later fold reads the very same vector.
    """
    with read_snapshot(night.engine) as conn:
        stored = dict(events.iterate_text_vectors(conn, encoder.encoder_id))
    vectors = {}
    absent: list[tuple[tuple[int, int], str]] = []
    for batch in _text_events(night):
        keys = zip(batch["user_key"].to_pylist(), batch["user_seq"].to_pylist(), strict=True)
        for key, text in zip(keys, batch["text"].to_pylist(), strict=True):
            if key in stored:
                vectors[key] = stored[key]
            else:
                absent.append((key, clean(text)))
    embedded_ND = encoder.encode([text for _, text in absent])
    for (key, _), vector in zip(absent, embedded_ND, strict=True):
        events.write_text_vector(night.engine, *key, encoder.encoder_id, vector)
        vectors[key] = vector
    write_event_vectors(night.workspace.work, vectors, encoder.dim)
    return len(absent)


def _text_events(night: Night) -> Iterator[pa.RecordBatch]:
    columns = ["user_key", "user_seq", "text", "kind"]
    for batch in pq.ParquetFile(night.workspace.events).iter_batches(CHUNK, columns=columns):
        is_text = pa.compute.is_in(batch["kind"], value_set=pa.array(sorted(events.TEXT_KINDS)))
        texts = batch.filter(is_text)
        if texts.num_rows:
            yield texts


if __name__ == "__main__":
    main("embed", embed, needs_ray=True)
