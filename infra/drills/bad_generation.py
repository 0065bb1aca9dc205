"""Drill `bad-generation`: a night makes something bad, and the gate keeps the last good one live.

The shipped steps of a night run on a small catalog with a log that can be learned from
(`infra.drills.small_night`). In a bad night one step does as it should and then spoils what it
wrote, as a bug of ours would. Each must be refused with its reason in the registry, and a replica
must go on answering from the last good generation, unmarked. Good nights of other seeds must pass.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fastapi.testclient import TestClient
from tqdm import tqdm

from infra.drills.figures import Figures, Options
from infra.drills.local import LocalStore, local_store, quiet, replica
from infra.drills.small_night import USERS, fill, open_small_night, run_night, steps
from ray_jobs.encoders.errors import EncoderError
from ray_jobs.encoders.fit import FitResult
from ray_jobs.encoders.train_config import tiny
from ray_jobs.encoders.user_lstm import UserLSTM
from ray_jobs.encoders.weights import load_weights, save_weights
from ray_jobs.nightly.build import item_vectors
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.train import WEIGHTS
from ray_jobs.nightly.workspace import NightError
from ray_jobs.ranking.priors import FUSION_NAME
from ray_jobs.shards.errors import ShardsError
from ray_jobs.shards.manifest import COARSE_NAME, shard_name
from ray_jobs.shards.placement import Family, shard_of
from ray_jobs.shards.texts import TextVectors, write_text_vectors
from ray_jobs.shards.writer import train_coarse, write_coarse, write_shard
from sql import generations
from sql.engine import read_snapshot
from sql.errors import StoreError

GOOD = 20
"""Good nights, the first one included: what `rounds` says."""
NLIST = 64
LOADS_S = 60.0
"""A replica of an installation that is new compiles its kernels when it loads the first one."""
ENDS = (NightError, ShardsError, EncoderError, StoreError, ValueError)
"""How a step of a night ends that cannot go on."""

Spoil = Callable[[Night, Report], None]


class Bad(NamedTuple):
    """`spoil` after `step`, inside it; `reason`: what the registry must say then."""

    step: str
    spoil: Spoil
    reason: str


def _torn_weights(night: Night, _: Report) -> None:
    """A number that is none, in the bytes."""
    path = night.workspace.directory / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-4:] = np.array([np.nan], "<f4").tobytes()
    path.write_bytes(content)


def _nan_weights(night: Night, _: Report) -> None:
    """A training that diverged: the shipped writer is handed the weights."""
    _draw(night, np.nan)


def untrained(night: Night, _: Report) -> None:
    """A training that taught nothing."""
    _draw(night, 1.0)


def _draw(night: Night, factor: float) -> None:
    """Random weights times `factor` in place of the learned ones."""
    path = night.workspace.directory / WEIGHTS
    learned = load_weights(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = UserLSTM(learned.config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    save_weights(path, FitResult(model, learned.residual_ordinals_R, (), 0))


def _rewrite_shards(
    night: Night,
    report: Report,
    order: Callable[[np.random.Generator, int], Any],
    *,
    kept: int | None = None,
    tell: bool = False,
) -> None:
    """The shards again, row n under the ordinal of row `order[n]`, only `kept` rows."""
    ordinals_N, vectors_ND = item_vectors(night.workspace)
    shuffled_N = ordinals_N[order(np.random.default_rng(0), len(ordinals_N))]
    shard_N = shard_of(shuffled_N, report["shards"])
    shard_N[kept:] = -1 if kept is not None else shard_N[kept:]
    for number in range(report["shards"]):
        here = shard_N == number
        path = night.workspace.directory / shard_name(number)
        write_shard(path, vectors_ND[here], shuffled_N[here], "Flat")
        if tell:
            report["shard_items"][number] = int(here.sum())


def _all(rng: np.random.Generator, count: int) -> Any:
    return rng.permutation(count)


def _two(_: np.random.Generator, count: int) -> Any:
    return np.r_[1, 0, 2:count]


def _none(_: np.random.Generator, count: int) -> Any:
    return np.arange(count)


def _poor_index(night: Night, report: Report) -> None:
    """An IVF that looks into one of 64 lists."""
    family: Family = "IVF,SQfp16"
    ordinals_N, vectors_ND = item_vectors(night.workspace)
    coarse = night.workspace.directory / COARSE_NAME
    write_coarse(coarse, train_coarse(vectors_ND, NLIST, seed=0))
    shard_N = shard_of(ordinals_N, report["shards"])
    for number in range(report["shards"]):
        here = shard_N == number
        path = night.workspace.directory / shard_name(number)
        write_shard(path, vectors_ND[here], ordinals_N[here], family, coarse)
    report |= {"family": family, "nlist": NLIST, "nprobe": 1}


def _permute_items(night: Night, _: Report) -> None:
    path = night.workspace.directory / "items.parquet"
    table = pq.read_table(path)
    ids = table["item_id"].to_pylist()
    ids[0], ids[1] = ids[1], ids[0]
    column = table.schema.get_field_index("item_id")
    pq.write_table(table.set_column(column, table.schema.field(column), pa.array(ids)), path)


def _lose_an_item(night: Night, report: Report) -> None:
    table = pq.read_table(night.workspace.items)
    pq.write_table(table.slice(0, len(table) - 1), night.workspace.items)
    report["items"] -= 1


def _permute_rows(name: str) -> Spoil:
    """What the priors say of an item is said of another."""

    def spoil(night: Night, _: Report) -> None:
        path = night.workspace.directory / name
        array = np.load(path, allow_pickle=False)
        np.save(path, np.random.default_rng(0).permutation(array), allow_pickle=False)

    return spoil


def turn_weights(night: Night, _: Report) -> None:
    """Fusion puts last what it should put first."""
    path = night.workspace.directory / FUSION_NAME
    fusion = json.loads(path.read_text(encoding="utf-8"))
    for season in ("lively", "quiet"):
        fusion[season] = {who: [-w for w in weights] for who, weights in fusion[season].items()}
    path.write_text(json.dumps(fusion), encoding="utf-8")


def _permute_texts(night: Night, _: Report) -> None:
    directory = night.workspace.directory
    texts = TextVectors.open(directory)
    digests = texts.digests_at(np.arange(len(texts)))
    vectors_TD = np.array(texts.vectors)[np.random.default_rng(0).permutation(len(texts))]
    write_text_vectors(directory, digests, vectors_TD)


BAD: dict[str, Bad] = {
    "NaN weights": Bad("train", _nan_weights, "not finite"),
    "NaN in the bytes of the weights": Bad("evaluate", _torn_weights, "weights.* digest"),
    "empty index": Bad("build", lambda n, r: _rewrite_shards(n, r, _none, kept=0), "item count"),
    "empty index, and it says so": Bad(
        "build", lambda n, r: _rewrite_shards(n, r, _none, kept=0, tell=True), "were exported"
    ),
    "permuted ids": Bad(
        "build", lambda n, r: _rewrite_shards(n, r, _all), r"\d+ of \d+ vectors in the shards"
    ),
    "two ids changed places": Bad(
        "build", lambda n, r: _rewrite_shards(n, r, _two), r"\b2 of \d+ vectors in the shards"
    ),
    "two names changed places": Bad("build", _permute_items, "the catalog has item"),
    "permuted texts": Bad("embed", _permute_texts, "the vector that it was put with"),
    "lost item": Bad("export", _lose_an_item, "is lost"),
    "lost vector": Bad("build", lambda n, r: _rewrite_shards(n, r, _none, kept=-1), "item count"),
    "poor recall": Bad("build", _poor_index, "recall@100"),
    "poor accuracy": Bad("train", untrained, "NDCG@10"),
    "fusion turned round": Bad("fuse", turn_weights, "NDCG@10 of lists"),
    "activity of other items": Bad(
        "fuse", _permute_rows("activity.sums.npy"), "the activity of .* is not what the log says"
    ),
    "neighbours of other items": Bad(
        "fuse", _permute_rows("neighbours.ordinals.npy"), "not those that the log says"
    ),
    "whole histories of other items": Bad(
        "fuse", _permute_rows("whole.factors.npy"), "not those that the log says"
    ),
}


def run(options: Options) -> Figures:
    """`rounds` good nights and every bad one."""
    return run_with(options, BAD)


def run_with(options: Options, bad: dict[str, Bad], users: int = USERS) -> Figures:
    """The same with those bad ones, and a log of so many users."""
    rounds = GOOD if options.rounds is None else options.rounds
    figures = Figures("bad-generation", rounds, options.seed)
    started_s = time.monotonic()
    counts: Counter[str] = Counter()
    with quiet(), local_store(items=0, seed=options.seed) as store:
        fill(store, options.seed, users)
        with (
            replica(store) as client,
            tqdm(
                total=rounds + len(bad),
                desc="bad-generation",
                unit="night",
                disable=not options.progress,
            ) as bar,
        ):
            for number in range(rounds):
                _good(store, client, f"good{number:02d}", options.seed + number, figures, counts)
                bar.update()
                if number == 0:  # the others are good after bad ones
                    for place, (name, what) in enumerate(bad.items()):
                        night = open_small_night(store, f"bad{place:02d}")
                        _bad(store, client, night, name, what, figures)
                        bar.update()
    figures.more |= {"good_passed": counts["passed"], "bad_refused": figures.more.pop("refused", 0)}
    figures.more["bad"] = len(bad)
    figures.more["seconds"] = round(time.monotonic() - started_s, 1)
    return figures


def _good(
    store: LocalStore,
    client: TestClient,
    generation_id: str,
    seed: int,
    figures: Figures,
    counts: Counter[str],
) -> None:
    try:
        run_night(store, generation_id, seed)
    except ENDS as error:
        figures.tell(f"the good night {generation_id} (seed {seed}) did not pass: {error}")
        return
    counts["passed"] += 1
    _expect_live(store, client, generation_id, figures)


def _bad(
    store: LocalStore,
    client: TestClient,
    night: Night,
    name: str,
    bad: Bad,
    figures: Figures,
) -> None:
    live = _live(store)
    try:
        for step_name, step in steps(tiny(figures.seed)).items():
            run_step(night, step_name, spoiled(step, bad) if step_name == bad.step else step)
        figures.tell(f"{name}: it passed the gate")
    except ENDS as error:
        with read_snapshot(store.engine) as conn:
            registered = generations.get_generation(conn, night.generation_id)
        reason = registered.failed_reason if registered else None
        if reason is None or not re.search(bad.reason, reason):
            figures.tell(f"{name}: refused as {reason!r} ({error}), not as {bad.reason!r}")
        else:
            figures.more["refused"] = figures.more.get("refused", 0) + 1
            figures.more[f"reason: {name}"] = reason.replace(str(store.folder), "")[:120]
    _expect_live(store, client, live, figures)


def spoiled(step: Callable[[Night], Report], bad: Bad) -> Callable[[Night], Report]:
    """The step, and then what spoils its work, as one."""

    def run(night: Night) -> Report:
        report = step(night)
        bad.spoil(night, report)
        return report

    return run


def _live(store: LocalStore) -> str:
    with read_snapshot(store.engine) as conn:
        pointer = generations.read_live(conn)
    assert pointer is not None, "a good night went before"
    return pointer.generation_id


def _expect_live(store: LocalStore, client: TestClient, expected: str, figures: Figures) -> None:
    answer = client.get("/v1/users/reader1/recommendations")
    until_s = time.monotonic() + LOADS_S
    while answer.status_code == 503 and time.monotonic() < until_s:  # it still loads its first one
        time.sleep(0.1)
        answer = client.get("/v1/users/reader1/recommendations")
    body = answer.json()
    told = (answer.status_code, body.get("generation"), body.get("degraded"))
    if _live(store) != expected or told != (200, expected, []):
        figures.failed_requests += 1
        figures.tell(f"{expected} should be live: {_live(store)} is, the replica says {told}")
