"""A whole night on a small made catalog in a few seconds: the shipped steps, without a cluster.

Left out is only what Ray brings: steps that spread their work take a function that does it, and
here it is a loop; training is `encoders.fit` on one worker instead of Ray Train's. Embedding is by
words (`infra.drills.catalog`). The log follows a pattern that can be learned: a user stays with one
topic and goes through its items in order.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from infra.drills.catalog import ENCODER_ID, TEXT_DIM, TOPICS, embed, item_put
from infra.drills.local import LocalStore
from infra.drills.stack import now_ms
from ray_jobs.encoders.fit import fit
from ray_jobs.encoders.train_config import TrainConfig, tiny
from ray_jobs.encoders.weights import save_weights
from ray_jobs.nightly.build import ShardTask, build_shard, build_with
from ray_jobs.nightly.canary import TextEncoder
from ray_jobs.nightly.check import check
from ray_jobs.nightly.embed_missing import Vectors, embed_with
from ray_jobs.nightly.evaluate import evaluate
from ray_jobs.nightly.export import export
from ray_jobs.nightly.fold import UserRange, fold_range, fold_with
from ray_jobs.nightly.fuse import fuse
from ray_jobs.nightly.prune import pruned
from ray_jobs.nightly.publish import publish
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.train import WEIGHTS, training_data
from ray_jobs.nightly.verify import verify
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.shards.object_store import ObjectStore
from sql import catalog
from sql.events import EventKind, NewEvent, append
from sql.sessions import SessionRow

ITEMS_A_TOPIC = 40
USERS = 240
EVENTS_A_USER = 14
HOUR_MS = 3_600_000

Step = Callable[[Night], Report]


class Words:
    """The words encoder as the night wants one (`canary.TextEncoder`)."""

    encoder_id = ENCODER_ID
    dim = TEXT_DIM

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (N, dim)."""
        return embed(texts)


def fill(store: LocalStore, seed: int, users: int = USERS) -> None:
    """Items t0 .. of each topic, and a log in which each user goes through one topic."""
    rng = np.random.default_rng(seed)
    names = [f"{topic}{n}" for topic in TOPICS for n in range(ITEMS_A_TOPIC)]
    puts = []
    for number, name in enumerate(names):
        topic = TOPICS[number // ITEMS_A_TOPIC]
        # Neighbours in the order share a word, so that text alone tells what comes next.
        place = number % ITEMS_A_TOPIC
        title = f"{topic} {topic}w{place // 4} {topic}w{place // 4 + 1} {name}"
        puts.append(item_put(name, title, category=topic))
    catalog.put_items(store.engine, puts, now_ms())
    began_ms = now_ms() - 30 * 24 * HOUR_MS
    requests = []
    for user in range(users):
        topic, start = TOPICS[user % len(TOPICS)], int(rng.integers(ITEMS_A_TOPIC))
        at_ms = began_ms + int(rng.integers(20 * 24)) * HOUR_MS
        steps = np.cumsum(rng.integers(1, 3, EVENTS_A_USER))
        requests.append(
            [
                NewEvent(
                    f"reader{user}",
                    f"e{n}",
                    EventKind.CLICK,
                    f"{topic}{(start + int(step)) % ITEMS_A_TOPIC}",
                    occurred_at_ms=at_ms + n * HOUR_MS,
                )
                for n, step in enumerate(steps)
            ]
        )
    append(store.engine, requests, received_at_ms=now_ms(), history=True)


def open_small_night(store: LocalStore, generation_id: str) -> Night:
    """The night as a job would open it."""
    settings = NightSettings(
        holdout_hours=1.0, fusion_questions=300, stage_deadline_s=20, verify_deadline_s=20
    )
    workspace = Workspace(store.root, generation_id, ObjectStore.open(store.artifact_uri))
    return Night(store.engine, store.settings, settings, workspace, now_ms, sleep_shortly)


def sleep_shortly(seconds: float) -> None:
    """No pause between bulk writes: nobody is to be spared."""


def steps(recipe: TrainConfig, encoder: TextEncoder | None = None) -> dict[str, Step]:
    """The steps of the night in their order; every item was put with its vector by `encoder`
    (None: by words)."""
    return {
        "export": export,
        "check": check,
        "embed": lambda night: embed_with(night, encoder or Words(), partial(_embedded, night)),
        "train": lambda night: _train(night, recipe),
        "build": lambda night: build_with(night, _shards_one_by_one),
        "fuse": fuse,
        "fold": lambda night: fold_with(night, _ranges_one_by_one),
        "evaluate": evaluate,
        "publish": publish,
        "verify": verify,
        "prune": pruned,
    }


def run_night(store: LocalStore, generation_id: str, seed: int) -> None:
    """All of them. What a step raises is raised; what was done stays done."""
    night = open_small_night(store, generation_id)
    for name, step in steps(tiny(seed)).items():
        run_step(night, name, step)


def _embedded(night: Night, digests: list[str]) -> Vectors:
    """Every item of a drill was put with its vector, so nothing is ever absent."""
    assert not digests, f"{len(digests)} texts of {night.generation_id} have no vector"
    return {}


def _train(night: Night, recipe: TrainConfig) -> Report:
    night.workspace.require_report("embed")
    fitted = fit(recipe, training_data(night.workspace, night.settings))
    save_weights(night.workspace.directory / WEIGHTS, fitted)
    return {"epochs": recipe.epochs, "seed": recipe.seed}


def _shards_one_by_one(tasks: list[ShardTask]) -> list[int]:
    return [build_shard(task) for task in tasks]


def _ranges_one_by_one(workspace: Workspace, ranges: list[UserRange]) -> Iterable[SessionRow]:
    for users in ranges:
        yield from fold_range(workspace, users)
