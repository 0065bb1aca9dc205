"""A generation in a replica's memory: an immutable base, and a delta that only moves forward.

The view (delta, items, how far the catalog log was applied) is one object, swapped whole: a
request takes it once and keeps it, so one answer is never half of two states.
"""

import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine

from ray_jobs.compiled import compile_all
from ray_jobs.encoders.fold import UserEncoder
from ray_jobs.encoders.weights import load_weights
from ray_jobs.ranking.priors import FUSION_NAME, Priors
from ray_jobs.shards.delta import Delta, DeltaChange
from ray_jobs.shards.errors import CorruptArtifact
from ray_jobs.shards.items import Item, ItemTable, attributes_json, read_items
from ray_jobs.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    manifest_digest,
    open_manifest,
    verify,
)
from ray_jobs.shards.reader import Shards, ShardSet
from ray_jobs.shards.search import search
from ray_jobs.shards.texts import TextVectors
from sql import catalog
from sql.engine import read_snapshot

log = logging.getLogger(__name__)

CHANGES_PER_READ = 1_000
MAX_SEQ = 2**63 - 1

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class CatalogView:
    """The catalog as it stands at `catalog_seq`: base minus masked plus delta."""

    catalog_seq: int
    delta: Delta
    items: ItemTable
    unembedded: frozenset[int]
    """Ordinals of listed items that have no vector of this encoder yet: found by no vector."""


def open_sealed(
    artifact_root: Path, generation_id: str, sealed_digest: str | None
) -> tuple[Path, Manifest]:
    """The folder and the manifest of a generation. The other files are not verified yet.

    `sealed_digest`: of the manifest, as the registry has it. The files are checked against the
    manifest, so whoever can write them must not be able to write it anew. None: not looked at, by
    a tool that made the generation itself.

    Raises:
        ray_jobs.shards.errors.ShardsError: the manifest is missing, altered or foreign.
    """
    directory = artifact_root / "generations" / generation_id
    digest = manifest_digest(directory)  # before it is parsed: a damaged one names other files
    if sealed_digest is not None and digest != sealed_digest:
        raise CorruptArtifact(
            directory / MANIFEST_NAME, expected=f"sha256 {sealed_digest}", actual=digest
        )
    return directory, open_manifest(directory)


class LoadedGeneration:
    """What a replica answers from. `view` is safe to read at any time; `catch_up` moves it."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: UserEncoder,
        shards: Shards,
        texts: TextVectors,
        items: ItemTable,
        priors: Priors | None = None,
    ) -> None:
        self.manifest = manifest
        self.generation_id = manifest.generation_id
        self.encoder_id = manifest.encoder_id
        self.encoder = encoder
        self.shards = shards
        self.priors = priors
        self._texts = texts
        self._lock = threading.Lock()
        # What was withdrawn at the watermark is in the shards, so that it can come back.
        withdrawn = [DeltaChange(int(o), None) for o in items.blocks[0].withdrawn]
        delta = Delta.empty(shards).apply(withdrawn)
        self._view = CatalogView(manifest.catalog_seq, delta, items, frozenset())

    @classmethod
    def open(
        cls, artifact_root: Path, generation_id: str, sealed_digest: str | None = None
    ) -> "LoadedGeneration":
        """Verify every digest, then map the files. `sealed_digest`: see `open_sealed`.

        Raises:
            ray_jobs.shards.errors.ShardsError: a file is missing, altered or foreign.
            ray_jobs.encoders.errors.EncoderError: the weights are.
            ray_jobs.ranking.priors.PriorsError: activity, neighbours or their weights are.
        """
        directory, manifest = open_sealed(artifact_root, generation_id, sealed_digest)
        verify(directory, manifest)  # faiss loads a flipped byte in silence
        return cls(
            manifest,
            load_weights(directory / "weights.safetensors"),
            ShardSet.open(directory, manifest),
            TextVectors.open(directory),
            read_items(directory),
            Priors.open(directory, manifest.files),
        )

    @property
    def view(self) -> CatalogView:
        """The newest view."""
        return self._view

    @property
    def is_of_older_fusion(self) -> bool:
        """It has a fusion that this version does not read: lists by cosine."""
        return self.priors is None and FUSION_NAME in self.manifest.files

    def warm(self) -> None:
        """Touch what the first request would have to fault in, compile what it runs."""
        compile_all()
        self._view.items.warm()
        if self.priors is not None:
            _ = self.priors.most_active
        query_D = np.zeros(self.shards.dim, np.float32)
        query_D[0] = 1.0
        search(self.shards.for_answer(), self._view.delta, query_D, 10)

    def catch_up(self, engine: Engine, at_least: int | None = None) -> CatalogView:
        """Apply the catalog log up to its head (at least `at_least`); returns the new view.

        A request that read a newer `catalog_seq` in its snapshot calls this before it answers: an
        item change is in force from its acknowledgement on, whichever replica answers.
        """
        if at_least is not None and self._view.catalog_seq >= at_least:
            return self._view
        with self._lock:
            while self._step(engine, MAX_SEQ):
                pass
            return self._view

    def behind_ms(self, conn: Connection, now_ms: int) -> int:
        """For how long the oldest change that is not applied has waited; 0 where all are."""
        at_ms = catalog.next_change_at_ms(conn, self._view.catalog_seq)
        return 0 if at_ms is None else max(0, now_ms - at_ms)

    def catch_up_to(self, engine: Engine, catalog_seq: int) -> CatalogView:
        """Apply the catalog log up to `catalog_seq` and no further: the catalog as it was then."""
        with self._lock:
            while self._view.catalog_seq < catalog_seq and self._step(engine, catalog_seq):
                pass
            return self._view

    def _step(self, engine: Engine, until: int) -> bool:
        """Apply the next changes, none above `until`. False: there are no more."""
        with read_snapshot(engine) as conn:
            changes = catalog.read_changes(conn, self._view.catalog_seq, CHANGES_PER_READ)
            more = len(changes) == CHANGES_PER_READ
            changes = [change for change in changes if change.change_seq <= until]
            digests = [c.text_digest for c in changes if c.text_digest is not None]
            vectors = self._vectors_of(digests)
            absent = [digest for digest in digests if digest not in vectors]
            if absent:
                vectors.update(catalog.read_item_vectors(conn, self.encoder_id, absent))
        if changes:
            self._view = self._applied(changes, vectors)
        return more

    def text_vectors(self, engine: Engine, digests: list[str]) -> Vectors:
        """BERT vectors by digest: of the generation, else as stored when the item was put."""
        vectors = self._vectors_of(digests)
        absent = [digest for digest in digests if digest not in vectors]
        if absent:
            with read_snapshot(engine) as conn:
                vectors.update(catalog.read_item_vectors(conn, self.encoder_id, absent))
        return vectors

    def item_vector(
        self, engine: Engine, ordinal: int, text_digest: str
    ) -> NDArray[np.float32] | None:
        """The unit vector (dim,) of an item, listed or withdrawn; None while its text has none."""
        bert = self.text_vectors(engine, [text_digest]).get(text_digest)
        if bert is None:
            return None
        vector_D: NDArray[np.float32] = self.encoder.item_vectors(
            bert[None, :], np.array([ordinal], np.int64)
        )[0]
        return vector_D

    def _vectors_of(self, digests: list[str]) -> Vectors:
        return self._texts.get(digests) if digests else {}

    def _applied(self, changes: list[catalog.CatalogChange], vectors: Vectors) -> CatalogView:
        view = self._view
        # Of an item that changed several times only the last state counts.
        last: dict[int, catalog.CatalogChange] = {}
        for change in changes:
            if change.replaced_ordinal is not None:
                last.pop(change.replaced_ordinal, None)
            last[change.ordinal] = change
        puts = [_shown(change) for change in last.values() if change.op == "put"]
        listed = [item for item in puts if item.available]
        withdrawn = {item.ordinal for item in puts if not item.available}
        gone = {change.ordinal for change in last.values() if change.op == "delete"}
        gone.update(c.replaced_ordinal for c in changes if c.replaced_ordinal is not None)
        # Not by the vector of its old text either, where it is an edit of an item of the base.
        unembedded = {item.ordinal for item in listed if item.text_digest not in vectors}
        if unembedded:
            log.warning("%d changed items have no vector yet", len(unembedded))
        settled = gone | {item.ordinal for item in puts}
        masked = sorted(gone | withdrawn | unembedded)
        return replace(
            view,
            catalog_seq=changes[-1].change_seq,
            delta=view.delta.apply(
                [
                    *(DeltaChange(ordinal, None) for ordinal in masked),
                    *self._delta_puts(listed, vectors),
                ]
            ),
            items=view.items.with_changes(puts, gone),
            unembedded=view.unembedded - settled | unembedded,
        )

    def _delta_puts(self, puts: list[Item], vectors: Vectors) -> list[DeltaChange]:
        embedded = [item for item in puts if item.text_digest in vectors]
        if not embedded:
            return []
        bert_NE = np.stack([vectors[item.text_digest] for item in embedded])
        ordinals_N = np.array([item.ordinal for item in embedded], np.int64)
        item_vectors_ND = self.encoder.item_vectors(bert_NE, ordinals_N)
        return [
            DeltaChange(item.ordinal, vector)
            for item, vector in zip(embedded, item_vectors_ND, strict=True)
        ]


def _shown(change: catalog.CatalogChange) -> Item:
    assert change.body is not None, "a put has a body"
    assert change.text_digest is not None, "a put has a text"
    return Item(
        ordinal=change.ordinal,
        item_id=change.item_id,
        title=change.body.title,
        category=change.body.category,
        attributes_json=attributes_json(change.body.attributes),
        published_at_ms=change.body.published_at_ms,
        text_digest=change.text_digest,
        available=change.body.available,
        former_ordinals=change.former_ordinals,
    )
