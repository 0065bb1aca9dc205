"""The gate: a bad night does no harm. Each check refuses with a reason that the on-call reads.

It looks at the files as a replica will: manifest, digests, shards opened as by day. Whether they
hold what they should is `gate_contents` and `gate_priors`.
"""

import numpy as np
from numpy.typing import NDArray

from ray_jobs.nightly import canary
from ray_jobs.nightly.build import item_vectors
from ray_jobs.nightly.gate_contents import HINT, check_items, check_vectors
from ray_jobs.nightly.gate_priors import check_priors
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report
from ray_jobs.nightly.workspace import GateRefused
from ray_jobs.shards.manifest import open_manifest, verify
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.recall import exact_nearest, recalls_of
from sql.engine import read_snapshot
from sql.generations import read_live

RECALL_QUERIES = 200
WHOLE_MARGIN_NDCG = 0.1
"""Live NDCG@10 from which on the whole margin may be lost: of 0.02 half would be."""
SEED = 0


def check_gate(night: Night) -> float:
    """Pass, or say why not. The generation's manifest is written already.

    Returns:
        recall@100 of the index.

    Raises:
        GateRefused: naming the check, the figure and the limit.
        ray_jobs.shards.errors.CorruptArtifact: a file is not what was written.
    """
    exported = night.workspace.require_report("export")
    built = night.workspace.require_report("build")
    evaluated = night.workspace.require_report("evaluate")
    settings = night.settings
    check_canaries(night.workspace.require_report("embed"))
    if not evaluated["finite"]:
        raise GateRefused("an item vector is not finite", hint=HINT)
    if built["items"] != exported["items"] or sum(built["shard_items"]) != exported["items"]:
        raise GateRefused(
            f"{exported['items']} items were exported, the shards hold {built['shard_items']}",
            hint=HINT,
        )
    directory = night.workspace.directory
    manifest = open_manifest(directory)
    verify(directory, manifest)
    check_items(night)
    check_priors(night)
    shards = ShardSet.open(directory, manifest)
    ordinals_N, vectors_ND = item_vectors(night.workspace)
    check_vectors(shards, ordinals_N, vectors_ND)
    recall = _index_recall(shards, ordinals_N, vectors_ND)
    if recall < settings.gate_min_index_recall:
        raise GateRefused(
            f"index recall@100 {recall:.4f} is below {settings.gate_min_index_recall}", hint=HINT
        )
    with read_snapshot(night.engine) as conn:
        live = read_live(conn)
    check_accuracy(evaluated, settings, something_is_live=live is not None)
    return recall


def check_accuracy(evaluated: Report, settings: NightSettings, *, something_is_live: bool) -> None:
    """Refuses what is worse than what is live, and what could not be compared with it.

    Where what is live reads another text encoder, the lists of the most popular stand in for its
    own. The second night of a new shop, whose log is too small to hold any of it out, is not held
    up.
    """
    questions = evaluated["questions"]
    if questions < settings.gate_min_questions and something_is_live and evaluated["can_compare"]:
        raise GateRefused(
            f"{questions} held-out questions: the candidate cannot be compared with what is live",
            hint=HINT + "; MOONLARK_GATE_MIN_QUESTIONS=0 publishes it all the same",
        )
    live = evaluated.get("live")
    if live is not None:
        named = f"the live {live['generation']}"
        compared = [("lists", evaluated, live)]
        if "vector" in live:  # not in a report that an older version left
            compared.append(("the user vector alone", evaluated["vector"], live["vector"]))
    elif something_is_live and "difference_high" in evaluated.get("popularity", {}):
        named = "the most popular, as what is live has another text encoder"
        compared = [("lists", evaluated, evaluated["popularity"])]
    else:
        return
    for what, candidate, old in compared:
        lost = old["ndcg@10"] - candidate["ndcg@10"]
        # Refuse only what is worse beyond the margin and not by chance (99.8 % of resamples).
        margin = settings.gate_margin * min(1.0, old["ndcg@10"] / WHOLE_MARGIN_NDCG)
        if old["difference_high"] < 0 and lost > margin:
            raise GateRefused(
                f"NDCG@10 of {what} {candidate['ndcg@10']:.4f} against {old['ndcg@10']:.4f} of "
                f"{named} on {questions} held-out events",
                hint=HINT,
            )


def check_canaries(embedded: Report) -> None:
    """Refuses where a text embedded again is not what was stored: half the catalog would then be of
    another space than the other half, and the day of another than the night."""
    cosine = embedded["canary_min_cosine"]
    if cosine is not None and not cosine >= canary.MIN_COSINE:
        raise GateRefused(
            f"of {embedded['canary_texts']} texts embedded again, one has cosine {cosine:.6f} to "
            f"its stored vector (at least {canary.MIN_COSINE})",
            hint=HINT,
        )


def _index_recall(
    shards: ShardSet, ordinals_N: NDArray[np.int64], vectors_ND: NDArray[np.float32]
) -> float:
    """Recall@100 of the shards against exact search, over sampled item vectors."""
    rng = np.random.default_rng(SEED)
    count = min(RECALL_QUERIES, len(vectors_ND))
    queries_BD = vectors_ND[np.sort(rng.choice(len(vectors_ND), count, replace=False))]
    _, true_BK = exact_nearest(queries_BD, vectors_ND, ordinals_N)
    _, found_BK = shards.search_all(queries_BD, true_BK.shape[1])
    return float(recalls_of(found_BK, true_BK).mean())
