"""What of step 2 needs neither BERT nor Ray: which texts have no vector yet, and where all go.

`embed` is the step; it brings BERT and the cluster.
"""

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_jobs.encoders.item_text import clean
from ray_jobs.nightly import canary
from ray_jobs.nightly.canary import TextEncoder
from ray_jobs.nightly.carried import directory_of
from ray_jobs.nightly.event_vectors import write_event_vectors
from ray_jobs.nightly.step import Night, Report
from ray_jobs.shards.errors import ShardsError, StoreAway
from ray_jobs.shards.manifest import open_manifest, verify
from ray_jobs.shards.texts import (
    DIGESTS_NAME,
    VECTORS_NAME,
    TextVectors,
    write_text_vectors,
)
from sql import catalog, events, generations
from sql.engine import read_snapshot

log = logging.getLogger("moonlark.night")

Vectors = dict[str, NDArray[np.float32]]

CHUNK = 10_000
PASSED = frozenset({"sealed", "staged", "published"})
"""States of a generation past its gate, and not pruned."""


def embed_with(
    night: Night, encoder: TextEncoder, embedded: Callable[[list[str]], Vectors]
) -> Report:
    """Write texts.digests.npy and texts.vectors.npy; `embedded` embeds the texts of digests."""
    exported = night.workspace.require_report("export")
    generations.register(
        night.engine,
        night.generation_id,
        encoder_id=encoder.encoder_id,
        catalog_seq=exported["catalog_seq"],
        event_count=exported["events"],
        user_count=exported["users"],
        created_at_ms=exported["created_at_ms"],
    )
    digests = _digests(night)
    vectors_ND, has_N = reused_vectors(night, encoder.encoder_id, digests, encoder.dim)
    rows = np.flatnonzero(~has_N).tolist()
    missing = [digests[row] for row in rows]
    reused = [digests[row] for row in np.flatnonzero(has_N)]
    new = embedded(missing)
    for row in rows:
        vectors_ND[row] = new[digests[row]]
    write_text_vectors(night.workspace.directory, digests, vectors_ND)
    event_texts = _embed_event_texts(night, encoder)
    return {
        "encoder_id": encoder.encoder_id,
        "text_dim": encoder.dim,
        "texts": len(digests),
        "embedded": len(missing),
        "reused": len(reused),
        "event_texts_embedded": event_texts,
        **_canaries(night, encoder, reused, missing),
    }


def _digests(night: Night) -> list[str]:
    """Of the exported texts, ascending: as they are written."""
    texts = pq.read_table(night.workspace.texts, columns=["text_digest"]).sort_by("text_digest")
    digests: list[str] = texts["text_digest"].to_pylist()
    return digests


def reused_vectors(
    night: Night, encoder_id: str, digests: list[str], dim: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Vectors (N, dim) of the digests, and which of them (N,) the newest sound generation has, or
    else the day stored; the rows of the others are 0. With `embed_all` none is reused.

    The generation first, as the day asks (`LoadedGeneration.text_vectors`), and all at once: a
    dictionary of a million arrays takes seconds and gigabytes.
    """
    vectors_ND = np.zeros((len(digests), dim), np.float32)
    has_N = np.zeros(len(digests), np.bool_)
    if night.settings.embed_all:
        return vectors_ND, has_N
    texts = _newest_texts(night, encoder_id)
    if texts is not None:
        rows_N = texts.rows_of(digests)
        has_N = rows_N >= 0
        vectors_ND[has_N] = texts.vectors[rows_N[has_N]]
    absent = np.flatnonzero(~has_N).tolist()
    with read_snapshot(night.engine) as conn:
        wanted = [digests[row] for row in absent]
        stored = catalog.read_item_vectors(conn, encoder_id, wanted)
    for row in absent:
        vector = stored.get(digests[row])
        if vector is not None:
            vectors_ND[row], has_N[row] = vector, True
    return vectors_ND, has_N


def _newest_texts(night: Night, encoder_id: str) -> TextVectors | None:
    """Those of the newest sound generation of the encoder that passed its gate: what was refused
    for its texts would have every night after it refused, too."""
    with read_snapshot(night.engine) as conn:
        earlier = [
            g
            for g in generations.list_generations(conn)
            if g.encoder_id == encoder_id and g.state in PASSED
        ]
    for generation in sorted(earlier, key=lambda g: g.created_at_ms, reverse=True):
        try:
            directory = directory_of(night.workspace.root, night.workspace.objects, generation)
            # A wrong byte copied from here would get a right digest in the new generation.
            verify(directory, open_manifest(directory), names=(DIGESTS_NAME, VECTORS_NAME))
            return TextVectors.open(directory)
        except StoreAway:
            raise  # embedding all of them again would take longer than another try
        except ShardsError as error:
            log.warning("no vectors are taken from %s: %s", generation.generation_id, error)
    return None


def _canaries(night: Night, encoder: TextEncoder, reused: list[str], new: list[str]) -> Report:
    """Some texts embedded again, reused ones first, against the files: what the gate looks at."""
    seed = zlib.crc32(night.generation_id.encode())
    chosen = [reused[row] for row in canary.choose(len(reused), seed)]
    chosen += [new[row] for row in canary.choose(len(new), seed, canary.CANARIES - len(chosen))]
    table = pq.read_table(night.workspace.texts)
    table = table.filter(pc.is_in(table["text_digest"], value_set=pa.array(chosen)))
    columns = (table[name].to_pylist() for name in ("text_digest", "text"))
    texts: Mapping[str, str] = dict(zip(*columns, strict=True))
    return {
        "canary_texts": len(texts),
        "canary_min_cosine": canary.min_cosine(
            encoder, texts, TextVectors.open(night.workspace.directory).get(texts)
        ),
    }


def _embed_event_texts(night: Night, encoder: TextEncoder) -> int:
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
        is_text = pc.is_in(batch["kind"], value_set=pa.array(sorted(events.TEXT_KINDS)))
        texts = batch.filter(is_text)
        if texts.num_rows:
            yield texts
