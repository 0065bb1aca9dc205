"""A past answer, rebuilt: from the log, the catalog log and the files of its generation.

exposure (what was shown) -> the user's log up to its `user_seq` -> fold -> user vector
                          -> its generation, caught up to its `catalog_seq` -> item vectors
                          -> cosines, beside the parts that were stored

It runs the day's own code from nothing, not the replica's memory. Read-only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine

from ray_jobs.encoders.fold import fold, user_vector
from ray_jobs.encoders.logged import fold_events
from ray_jobs.ranking.explain import TOLERANCE, differences
from ray_jobs.shards.carry import fetch_generation
from ray_jobs.shards.object_store import ObjectStore
from ray_jobs.shards.search import live_vectors_of
from serve.loaded_generation import CatalogView, LoadedGeneration
from sql.engine import read_snapshot
from sql.events import (
    TEXT_KINDS,
    StoredEvent,
    effective,
    find_user_by_key,
    read_tail,
    read_text_vectors,
)
from sql.exposures import Exposure, ShownItem
from sql.generations import get_generation

PAGE = 10_000
"""Events read at once."""


class NotRebuilt(Exception):
    """An answer that cannot be rebuilt. `hint` names the next command."""

    def __init__(self, request_id: str, reason: str, hint: str) -> None:
        super().__init__(f"request {request_id}: {reason}")
        self.request_id, self.hint = request_id, hint


@dataclass(frozen=True, slots=True)
class RebuiltItem:
    """An item of the answer. `cosine`: its share of the score, None where it could not be rebuilt.
    `difference`: rebuilt less stored."""

    shown: ShownItem
    cosine: float | None
    difference: float | None


@dataclass(frozen=True, slots=True)
class RebuiltAnswer:
    """`reasons`: why the rebuilt cosines may differ from the stored ones, or are missing."""

    exposure: Exposure
    user_id: str | None
    events: int
    effective_events: int
    items: Sequence[RebuiltItem]
    max_abs_difference: float | None
    reasons: Sequence[str]

    @property
    def agrees(self) -> bool:
        """Whether every cosine that could be rebuilt is the stored one, within `TOLERANCE`."""
        return self.max_abs_difference is None or self.max_abs_difference <= TOLERANCE


def rebuild(
    engine: Engine, artifact_root: Path, exposure: Exposure, artifact_uri: str | None = None
) -> RebuiltAnswer:
    """Rebuild the answer that `exposure` records. `artifact_uri`: of the object store, if any.

    Raises:
        NotRebuilt: the files of its generation are gone.
        ray_jobs.shards.errors.ShardsError: they are damaged, or the object store is away.
    """
    generation = _open(engine, artifact_root, exposure, artifact_uri)
    view = generation.catch_up_to(engine, exposure.catalog_seq)
    reasons: list[str] = []
    if view.catalog_seq < exposure.catalog_seq:
        reasons.append(f"the catalog log ends at {view.catalog_seq}: later changes were trimmed")
    log = _Log.read(engine, generation, exposure)
    vector_D = _user_vector(engine, generation, log, exposure, reasons)
    shown = [_with_ordinal(item, view) for item in exposure.items]
    cosines = _cosines(engine, generation, view, shown, vector_D)
    weight, priors = 1.0, generation.priors
    if priors is not None:
        is_quiet = bool(exposure.params.get("is_quiet", False))
        weight = priors.fusion.cosine_weight(is_quiet=is_quiet)
    cosines = [None if cosine is None else weight * cosine for cosine in cosines]
    if vector_D is not None and None in cosines:
        reasons.append(f"the texts of {cosines.count(None)} items are gone, with their vectors")
    if exposure.params.get("basis") == "popularity":
        reasons.append("the list was ordered by popularity: there are no cosines in it")
        cosines = [None] * len(shown)
    stored = [_stored_cosine(item) for item in shown]
    changes = differences(stored, cosines)
    return RebuiltAnswer(
        exposure=exposure,
        user_id=log.user_id,
        events=len(log.events),
        effective_events=len(effective(log.events)),
        items=[
            RebuiltItem(item, now, change)
            for item, now, change in zip(shown, cosines, changes, strict=True)
        ],
        max_abs_difference=max((abs(c) for c in changes if c is not None), default=None),
        reasons=reasons,
    )


def _open(
    engine: Engine, artifact_root: Path, exposure: Exposure, artifact_uri: str | None
) -> LoadedGeneration:
    with read_snapshot(engine) as conn:
        known = get_generation(conn, exposure.generation_id)
    sealed_digest = None if known is None else known.manifest_digest
    objects = ObjectStore.open(artifact_uri)
    if objects is not None and known is not None and known.state != "pruned":
        fetch_generation(objects, artifact_root, exposure.generation_id, sealed_digest)
    if not (artifact_root / "generations" / exposure.generation_id).is_dir():
        raise NotRebuilt(
            exposure.request_id,
            f"the files of its generation {exposure.generation_id} are gone",
            "`moonlark generations` lists those whose files are kept; MOONLARK_ARTIFACT_ROOT says "
            "where they are looked for",
        )
    return LoadedGeneration.open(artifact_root, exposure.generation_id, sealed_digest)


@dataclass(frozen=True, slots=True)
class _Log:
    """A user's log as far as the answer reflects it."""

    user_id: str | None
    events: Sequence[StoredEvent]
    text_vectors: dict[int, NDArray[np.float32]]

    @classmethod
    def read(cls, engine: Engine, generation: LoadedGeneration, exposure: Exposure) -> "_Log":
        if exposure.user_key is None or exposure.user_seq == 0:
            return cls(None, [], {})
        with read_snapshot(engine) as conn:
            user = find_user_by_key(conn, exposure.user_key)
            events = _until(conn, exposure.user_key, exposure.user_seq)
            texts = [event.user_seq for event in events if event.kind in TEXT_KINDS]
            vectors = read_text_vectors(conn, exposure.user_key, texts, generation.encoder_id)
        return cls(user.user_id if user else None, events, vectors)


def _user_vector(
    engine: Engine,
    generation: LoadedGeneration,
    log: _Log,
    exposure: Exposure,
    reasons: list[str],
) -> NDArray[np.float32] | None:
    """The user vector by the fold from nothing; None where nothing is left to fold."""
    if exposure.user_key is not None and len(log.events) < exposure.user_seq:
        gone = exposure.user_seq - len(log.events)
        reasons.append(f"{gone} of the {exposure.user_seq} events are gone (retention)")
    if not log.events:
        return None
    digests = [event.text_digest for event in log.events if event.text_digest is not None]
    item_vectors = generation.text_vectors(engine, digests)
    folded, without = fold_events(log.events, log.text_vectors, item_vectors)
    if without:
        reasons.append(f"the texts of {len(without)} events have no vector")
    elif "text_not_embedded" in exposure.degraded:
        reasons.append("texts that were not embedded at the time are now")
    return user_vector(generation.encoder, fold(generation.encoder, None, folded))


def _until(conn: Connection, user_key: int, user_seq: int) -> list[StoredEvent]:
    """The user's events 1..user_seq, those that are still there."""
    events: list[StoredEvent] = []
    while page := read_tail(conn, user_key, events[-1].user_seq if events else 0, PAGE):
        events += [event for event in page if event.user_seq <= user_seq]
        if page[-1].user_seq >= user_seq:
            break
    return events


def _stored_cosine(item: ShownItem) -> float | None:
    """An exposure of 0.1 kept no parts: then the score was the cosine."""
    return item.parts.get("cosine") if item.parts else item.score


def _with_ordinal(item: ShownItem, view: CatalogView) -> ShownItem:
    """An exposure of 0.1 kept no ordinals: looked up in the catalog as it was."""
    if item.ordinal is not None:
        return item
    ordinals = view.items.live_ordinals()
    found = (
        int(ordinal)
        for ordinal, there in zip(ordinals, view.items.get_many(ordinals), strict=True)
        if there is not None and there.item_id == item.item_id
    )
    return item._replace(ordinal=next(found, None))


def _cosines(
    engine: Engine,
    generation: LoadedGeneration,
    view: CatalogView,
    shown: Sequence[ShownItem],
    vector_D: NDArray[np.float32] | None,
) -> list[float | None]:
    """By the text that each item had then; None where its vector is gone."""
    if vector_D is None:
        return [None] * len(shown)
    ordinals = np.array([-1 if i.ordinal is None else i.ordinal for i in shown], np.int64)
    found, vectors_ND = live_vectors_of(generation.shards, view.delta, ordinals)
    items = view.items.get_many(ordinals)
    digests = ["" if item is None else item.text_digest for item in items]
    # An edited item whose new text is gone would else be scored by the text before.
    known = generation.text_vectors(engine, digests)
    found &= np.array([digest in known for digest in digests], np.bool_)
    cosines = vectors_ND @ vector_D
    return [float(c) if there else None for c, there in zip(cosines, found, strict=True)]
