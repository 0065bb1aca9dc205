"""Step 8. The check after the publish: the live generation, as the replicas see it.

The gate judged the candidate before any replica had it. Here its files are read once more, a few
canary queries are asked of them, and every replica with a fresh lease must say that it answers
from it. What fails is rolled back at once, with `hold`: a person looks before another night
publishes.

Run: python -m ray_jobs.nightly.verify --generation ID
"""

import logging
from pathlib import Path

import numpy as np

from ray_jobs.encoders.errors import EncoderError
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.carried import directory_of
from ray_jobs.nightly.publish import one_reason, stage_and_flip, wait_for_replicas
from ray_jobs.nightly.step import Night, Report, main
from ray_jobs.nightly.workspace import NightError, VerifyFailed
from ray_jobs.ranking.priors import PriorsError
from ray_jobs.shards.delta import Delta
from ray_jobs.shards.errors import ShardsError, StoreAway
from ray_jobs.shards.items import read_items
from ray_jobs.shards.manifest import manifest_digest, open_manifest
from ray_jobs.shards.manifest import verify as verify_digests
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.search import search
from ray_jobs.shards.texts import TextVectors
from sql import generations
from sql.engine import read_snapshot
from sql.errors import StoreError
from sql.generations import LivePointer
from sql.live import BY_NIGHT, MAX_WORDS_CHARACTERS

log = logging.getLogger("moonlark.night")

ROLLED_BACK = "verify: "
"""How the reason of our own rollbacks begins in the pointer's history."""

CANARIES = 32
CANARY_K = 10
MIN_COSINE = 0.999
"""Between what a shard stores (fp16) and what text and weights say of the item."""
TIE = 1e-3
"""Other items may share an item's text; beyond this above its own score, something is wrong."""


class CheckFailed(Exception):
    """What is wrong, in words for the on-call."""


def verify(night: Night) -> Report:
    """Pass, or go back to the generation before, with `hold`.

    Run again after it rolled back, it fails again with the same reason. Where something else is
    live by now there is nothing to check.

    What stays live all the same is kept as broken, as the hourly look would: LiveBroken fires.

    Raises:
        VerifyFailed: what is wrong, and whether it was rolled back.
        StoreAway: this node lacks the files, and cannot fetch them.
    """
    with read_snapshot(night.engine) as conn:
        history = generations.live_history(conn)
        registered = generations.get_generation(conn, night.generation_id)
    live = history[0] if history else None
    if live is None or live.generation_id != night.generation_id:
        return _not_live(night, history)
    assert registered is not None, "a live generation is registered"
    try:
        directory = directory_of(night.workspace.root, night.workspace.objects, registered)
        report = check_files(directory, registered.manifest_digest)
        report["replicas_ready"] = _ready_replicas(night)
    except StoreAway:
        raise  # says nothing against the generation: the task is tried again
    except (CheckFailed, ShardsError, EncoderError, PriorsError, OSError) as error:
        raise _gone_back(night, live, str(error)) from error
    return {"generation": night.generation_id, "flip": live.flip, **report}


def check_files(directory: Path, registered_digest: str | None) -> Report:
    """Digests, counts and canary queries of a generation's folder.

    Raises:
        CheckFailed, ShardsError, EncoderError: what is wrong.
    """
    manifest = open_manifest(directory)
    digest = manifest_digest(directory)
    if digest != registered_digest:
        raise CheckFailed(f"its manifest is {digest}, the registry has {registered_digest}")
    verify_digests(directory, manifest)
    encoder = load_weights(directory / "weights.safetensors")
    shards, texts = ShardSet.open(directory, manifest), TextVectors.open(directory)
    items = read_items(directory)
    ordinals = items.live_ordinals()
    if not np.array_equal(ordinals, shards.ordinals):
        raise CheckFailed(f"{len(ordinals)} items, but the shards hold {len(shards.ordinals)}")
    delta, k = Delta.empty(shards), min(CANARY_K, len(ordinals))
    canaries = ordinals[:: max(1, len(ordinals) // CANARIES)][:CANARIES]
    _, stored_ND = shards.vectors_of(canaries)
    for ordinal, stored_D in zip(canaries, stored_ND, strict=True):
        item = items.get(int(ordinal))
        assert item is not None, "it is of live_ordinals"
        bert = texts.get([item.text_digest]).get(item.text_digest)
        if bert is None:
            raise CheckFailed(f"the text of item {item.item_id!r} has no vector")
        query_D = encoder.item_vectors(bert[None, :], np.array([ordinal]))[0]
        own = float(query_D @ stored_D)
        if not own >= MIN_COSINE:
            raise CheckFailed(f"item {item.item_id!r} is stored at cosine {own:.4f} to its text")
        scores, found = search(shards, delta, query_D, k)
        if len(found) != k or not bool(np.isfinite(scores).all()):
            raise CheckFailed(f"like {item.item_id!r}: {len(found)} of {k} items, or not finite")
        if ordinal not in found and scores[0] > own + TIE:
            raise CheckFailed(f"item {item.item_id!r} is not the nearest to itself")
    return {"items": len(ordinals), "canaries": len(canaries)}


def _ready_replicas(night: Night) -> int:
    """Waits for those that are late: a replica that cannot load it is replaced meanwhile."""
    waited = wait_for_replicas(
        night.engine,
        night.generation_id,
        deadline_s=night.settings.verify_deadline_s,
        lease_s=night.settings.lease_s,
        lease_now_ms=night.lease_now_ms,
        sleep=night.sleep,
        monotonic=night.monotonic,
    )
    if waited.behind:
        total, why = len(waited.ready) + len(waited.behind), one_reason(waited.behind)
        raise CheckFailed(f"{len(waited.behind)} of {total} replicas lack it: {why}")
    return len(waited.ready)


def _not_live(night: Night, history: list[LivePointer]) -> Report:
    """A try before this one rolled back, or nobody published it (a hold), or somebody went on."""
    for flip in history:
        if flip.who == BY_NIGHT and flip.why.startswith(_words(night.generation_id, "")):
            raise VerifyFailed(
                f"{flip.why}; rolled back to {flip.generation_id} before (flip {flip.flip})",
                hint="mend it, then `moonlark publish --clear-hold`",
            )
        if flip.generation_id == night.generation_id:
            break  # published after any rollback further down
    live = history[0].generation_id if history else None
    log.warning("nothing to verify: %s is live, not %s", live, night.generation_id)
    return {"generation": night.generation_id, "not_live_but": live}


def _gone_back(night: Night, live: LivePointer, reason: str) -> VerifyFailed:
    """Roll back from `live`; the error that says so."""
    failed = f"the check of {live.generation_id} after its publish failed: {reason}"
    if live.previous is None:
        _keep_broken(night, reason)
        return VerifyFailed(
            f"{failed}; there is no generation before it, it stays live",
            hint="`moonlark status`, then another `moonlark night`",
        )
    try:
        pointer, _, _ = stage_and_flip(
            night.engine,
            live.previous,
            settings=night.settings,
            who=BY_NIGHT,
            why=_words(live.generation_id, reason),
            hold=True,
            now_ms=night.now_ms,
            lease_now_ms=night.lease_now_ms,
            expected_flip=live.flip,
            sleep=night.sleep,
            monotonic=night.monotonic,
        )
    except (StoreError, NightError) as error:
        _keep_broken(night, reason)
        return VerifyFailed(
            f"{failed}; it could not be rolled back: {error}", hint="`moonlark status`, now"
        )
    return VerifyFailed(
        f"{failed}; rolled back to {pointer.generation_id} (flip {pointer.flip}), hold set",
        hint="mend it, then `moonlark publish --clear-hold`",
    )


def _keep_broken(night: Night, reason: str) -> None:
    """It stays live. A database that is away must not hide why."""
    found = generations.Verified(None, reason, night.now_ms())
    try:
        generations.keep_verified(night.engine, night.generation_id, found)
    except StoreError as error:
        log.error("%s is broken: %s; not kept: %s", night.generation_id, reason, error)


def _words(generation_id: str, reason: str) -> str:
    """Kept in the pointer's history, and how a later try knows its own rollback."""
    return f"{ROLLED_BACK}{generation_id}: {reason}"[:MAX_WORDS_CHARACTERS]


if __name__ == "__main__":
    main("verify", verify)
