"""A generation of the present catalog in a second or two: the night without its training.

The files, the manifest, the registry and the sessions are written by the shipped code; only the
weights are drawn instead of trained, so that each generation scores everything differently and an
answer mixed of two is found out.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine

from infra.drills.catalog import ENCODER_ID, embed
from ray_jobs.encoders import logged
from ray_jobs.encoders.fit import FitResult
from ray_jobs.encoders.fold import FoldEvent, fold
from ray_jobs.encoders.item_text import clean
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.user_lstm import UserLSTM, UserLSTMConfig
from ray_jobs.encoders.weights import load_weights, save_weights
from ray_jobs.nightly.export import as_shown
from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.shards.items import write_items
from ray_jobs.shards.manifest import (
    COARSE_NAME,
    Manifest,
    manifest_digest,
    shard_name,
    write_manifest,
)
from ray_jobs.shards.placement import FamilyChoice, choose_family, shard_of
from ray_jobs.shards.texts import write_text_vectors
from ray_jobs.shards.writer import train_coarse, write_coarse, write_shard
from sql import catalog, generations
from sql.engine import read_snapshot
from sql.events import StoredEvent, iterate_log
from sql.sessions import SessionRow

DIM = 16
PAGE = 5_000
SHARDS = 2
"""More than a night makes of a small catalog: so that there is something to merge."""


def make_generation(
    engine: Engine,
    root: Path,
    generation_id: str,
    *,
    seed: int,
    at_ms: int,
    dim: int = DIM,
    choice: FamilyChoice | None = None,
    shards: int = SHARDS,
) -> None:
    """Write the files of a generation of the catalog as it stands, and seal it.

    `seed`: of the weights; the same seed scores alike. `choice`: by the catalog's size when None.

    Raises:
        ValueError: an item has no stored vector of `ENCODER_ID`.
    """
    directory = generation_directory(root, generation_id)
    (directory / "shards").mkdir(parents=True)
    seq, items, digests, bert_NE = _read_catalog(engine)
    ordinals_N = np.array([item.ordinal for item in items], np.int64)
    unique, rows = np.unique(digests, return_index=True)
    write_text_vectors(directory, [str(d) for d in unique], bert_NE[rows])
    write_items(directory, map(as_shown, items))
    _draw_weights(directory, seed, bert_NE.shape[1], dim)
    encoder = load_weights(directory / "weights.safetensors")
    vectors_ND = encoder.item_vectors(bert_NE, ordinals_N)
    choice = choice or choose_family(len(items))
    coarse: Path | None = None
    if choice.family != "Flat":
        coarse = directory / COARSE_NAME
        write_coarse(coarse, train_coarse(vectors_ND, choice.nlist, seed=0))
    numbers = shard_of(ordinals_N, shards)
    for number in range(shards):
        here = numbers == number
        path = directory / shard_name(number)
        write_shard(path, vectors_ND[here], ordinals_N[here], choice.family, coarse)
    manifest = write_manifest(
        directory,
        generation_id=generation_id,
        encoder_id=ENCODER_ID,
        text_dim=bert_NE.shape[1],
        dim=encoder.dim,
        family=choice.family,
        nlist=choice.nlist,
        nprobe=choice.nprobe,
        shard_count=shards,
        item_count=len(items),
        catalog_seq=seq,
    )
    seal(engine, directory, manifest, at_ms)


def seal(engine: Engine, directory: Path, manifest: Manifest, at_ms: int) -> None:
    """Enter a generation whose files are written into the registry, with their digests."""
    generation_id = manifest.generation_id
    generations.register(
        engine,
        generation_id,
        encoder_id=manifest.encoder_id,
        catalog_seq=manifest.catalog_seq,
        created_at_ms=at_ms,
    )
    files = [
        generations.Artifact(path, entry.sha256, entry.size)
        for path, entry in sorted(manifest.files.items())
    ]
    generations.record_artifacts(engine, generation_id, files)
    digest = manifest_digest(directory)
    generations.seal(engine, generation_id, manifest_digest=digest, metrics={})


def fold_sessions(engine: Engine, encoder: UserEncoder) -> list[SessionRow]:
    """The sessions of all users at this moment, as the night folds them."""
    histories: dict[int, list[StoredEvent]] = {}
    with read_snapshot(engine) as conn:
        for chunk in iterate_log(conn):
            for event in chunk:
                histories.setdefault(event.user_key, []).append(event)
        digests = {e.text_digest for h in histories.values() for e in h if e.text_digest}
        vectors = _vectors(conn, sorted(digests))
    keys = sorted(histories)
    folded = [fold(encoder, None, fold_events(histories[key], vectors)) for key in keys]
    return [
        SessionRow(key, session.user_seq, session.to_bytes())
        for key, session in zip(keys, folded, strict=True)
    ]


def fold_events(
    history: list[StoredEvent], vectors: dict[str, NDArray[np.float32]]
) -> list[FoldEvent]:
    """Log rows as the fold reads them; `vectors` of the items' texts, by digest. Those of searches
    are the words' own."""
    texts = {e.user_seq: embed([clean(e.text)])[0] for e in history if e.text is not None}
    events, without = logged.fold_events(history, texts, vectors)
    assert not without, without[0]
    return events


def _read_catalog(
    engine: Engine,
) -> tuple[int, list[catalog.Item], list[str], NDArray[np.float32]]:
    """Watermark, items by ordinal, their digests and vectors (N, E), of one snapshot."""
    items: list[catalog.Item] = []
    with read_snapshot(engine) as conn:
        seq = catalog.catalog_seq(conn)
        while page := catalog.read_items(conn, items[-1].ordinal if items else -1, PAGE):
            items += page
        digests = [item.text_digest for item in items]
        vectors = _vectors(conn, digests)
    absent = next((i for i in items if i.text_digest not in vectors), None)
    if absent is not None:
        raise ValueError(f"item {absent.item_id!r} has no vector of {ENCODER_ID}")
    return seq, items, digests, np.stack([vectors[digest] for digest in digests])


def _vectors(conn: Connection, digests: list[str]) -> dict[str, NDArray[np.float32]]:
    vectors: dict[str, NDArray[np.float32]] = {}
    for first in range(0, len(digests), PAGE):
        part = digests[first : first + PAGE]
        vectors.update(catalog.read_item_vectors(conn, ENCODER_ID, part))
    return vectors


def _draw_weights(directory: Path, seed: int, text_dim: int, dim: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UserLSTM(UserLSTMConfig(text_dim=text_dim, dim=dim, hidden=dim)).eval()
    nobody = np.zeros(0, np.int64)
    save_weights(directory / "weights.safetensors", FitResult(model, nobody, (), 0))
