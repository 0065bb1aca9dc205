"""The night, the on-call person, and what they may and may not do to the live pointer.

The steps are the shipped ones but `train` (weights from the seed) and the cluster (the shards and
the sessions are made here). As Airflow does, a step that failed is tried again, and a night that
was killed goes on where it stopped.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from infra.simulation.fake_model import FakeBert, embed_text, make_model
from infra.simulation.scheduler import Actor
from infra.simulation.world import World
from ray_jobs.encoders.errors import EncoderError
from ray_jobs.encoders.weights import write_weights
from ray_jobs.nightly.build import ShardTask, build_shard, build_with
from ray_jobs.nightly.embed_missing import Vectors, embed_with
from ray_jobs.nightly.evaluate import evaluate
from ray_jobs.nightly.export import export
from ray_jobs.nightly.fold import UserRange, fold_range, fold_with
from ray_jobs.nightly.fuse import fuse
from ray_jobs.nightly.prune import pruned
from ray_jobs.nightly.publish import publish, stage_and_flip
from ray_jobs.nightly.rollback import rollback
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.verify import verify
from ray_jobs.nightly.workspace import NightError, Workspace
from ray_jobs.ranking.priors import PriorsError
from ray_jobs.shards.errors import ShardsError
from ray_jobs.shards.items import read_items
from sql import catalog, generations
from sql.engine import read_snapshot
from sql.errors import StoreError
from sql.sessions import SessionRow
from sql.settings import StoreSettings

TRIES = 4
RETRY_AFTER_S = 0.3
FOLD_USERS = 2
LEASE_S = 1.5
STAGE_DEADLINE_S = 2.0
NIGHT, ON_CALL = "night", "on-call"

EXPECTED_ERRORS = (StoreError, NightError, ShardsError, EncoderError, PriorsError)
"""What a night may end with, for the on-call to read; anything else is a bug of ours."""


def settings_of(world: World) -> NightSettings:
    """A gate that refuses nothing, but now and then one that is strict."""
    return _settings(0.0 if world.rng.random() < 0.2 else 1.0)


@cache
def _settings(gate_margin: float) -> NightSettings:
    return NightSettings(
        shards=2,
        fold_users=FOLD_USERS,
        holdout_hours=0.001,
        holdout_events=3,
        gate_margin=gate_margin,
        stage_deadline_s=STAGE_DEADLINE_S,
        lease_s=LEASE_S,
        verify_deadline_s=1.0,
        keep_generations=2,
    )


class NightShift:
    """Makes generations, one at a time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made = 0
        self.running: Actor | None = None

    def make_now(self) -> str:
        """A whole night in the caller, for instance the first one."""
        self._made += 1
        generation_id = f"g{self._made:02d}"
        self._steps(generation_id)
        return generation_id

    def spawn(self) -> None:
        """A night as an actor, unless one is running."""
        if self.running is None or self.running.dead:
            self._made += 1
            generation_id = f"g{self._made:02d}"
            if self._world.rng.random() < 0.1:
                self._world.bad.add(generation_id)
            self._spawn(generation_id)

    def _spawn(self, generation_id: str) -> None:
        def run() -> None:
            self._with_retries(generation_id)

        self.running = self._world.scheduler.spawn(f"night {generation_id}", run)

    def kill_and_resume(self) -> None:
        """The driver of the night is killed, and taken up again a little later."""
        if self.running is None or self.running.dead:
            return
        generation_id = self.running.name.split()[1]
        self._world.scheduler.note(f"kills the night {generation_id}")
        self._world.scheduler.kill(self.running)
        while not self.running.dead:
            self._world.scheduler.pause()
        self._spawn(generation_id)

    def _with_retries(self, generation_id: str) -> None:
        world = self._world
        for _ in range(TRIES):
            try:
                self._steps(generation_id)
            except EXPECTED_ERRORS as error:
                world.scheduler.note(f"{generation_id}: {_told(world, error)}")
                world.scheduler.sleep(RETRY_AFTER_S)
            else:
                return

    def _steps(self, generation_id: str) -> None:
        world = self._world
        night = Night(
            world.engine,
            _store(world.root),
            settings_of(world),
            Workspace(world.root, generation_id),
            world.now_ms,
            sleep=world.scheduler.sleep,
            monotonic=world.scheduler.monotonic,
            lease_now_ms=world.now_ms,
        )
        steps: dict[str, Callable[[Night], Report]] = {
            "export": export,
            "embed": lambda night: embed_with(night, FakeBert(), self._embed_digests),
            "train": self._train,
            "build": lambda night: build_with(night, self._write_shards),
            "fuse": fuse,
            "fold": lambda night: fold_with(night, self._folded),
            "evaluate": evaluate,
            "publish": publish,
            "verify": verify,
            "prune": pruned,
        }
        for name, step in steps.items():
            run_step(night, name, step)
            world.scheduler.note(f"{generation_id}: {name} is done")
            world.scheduler.pause()

    def _embed_digests(self, digests: list[str]) -> Vectors:
        with read_snapshot(self._world.engine) as conn:
            texts = catalog.texts_by_digest(conn, digests)
        return {digest: embed_text(text) for digest, text in texts.items()}

    def _write_shards(self, tasks: list[ShardTask]) -> list[int]:
        """A bad night mixes the items of its shards up here; the gate must find out."""
        generation_id = Path(tasks[0].path).parent.parent.name
        if generation_id in self._world.bad:
            mixed = [replace(task, vectors_ND=task.vectors_ND[::-1].copy()) for task in tasks]
            if all(
                np.array_equal(a.vectors_ND, b.vectors_ND)
                for a, b in zip(tasks, mixed, strict=True)
            ):
                self._world.bad.discard(generation_id)  # few items, all alike
            tasks = mixed
        return [build_shard(task) for task in tasks]

    def _train(self, night: Night) -> Report:
        seed = int(night.generation_id[1:])
        ordinals = read_items(night.workspace.work).live_ordinals().tolist()
        model = make_model(seed, ordinals)
        self._world.models[night.generation_id] = model
        write_weights(
            night.workspace.directory / "weights.safetensors",
            model.config,
            model.tensors,
            model.residual_ordinals,
        )
        return {"loss": 1.0}

    def _folded(self, workspace: Workspace, ranges: list[UserRange]) -> Iterable[SessionRow]:
        for user_keys in ranges:
            yield from fold_range(workspace, user_keys)
            self._world.scheduler.pause()


def _told(world: World, error: Exception) -> str:
    """Without the folder: it is another one in each run, and a seed is one history."""
    why = str(error).replace(str(world.root.parent), "")
    return f"{type(error).__name__}: {why}"[:150]


@cache
def _store(root: Path) -> StoreSettings:
    return StoreSettings(artifact_root=root)


def go_back(world: World) -> None:
    """The on-call rolls back, and lifts the hold some time later, or never."""
    try:
        pointer = rollback(
            world.engine,
            None,
            who=ON_CALL,
            why="simulated",
            settings=settings_of(world),
            now_ms=world.now_ms,
            lease_now_ms=world.now_ms,
            monotonic=world.scheduler.monotonic,
            sleep=world.scheduler.sleep,
        )
        world.scheduler.note(f"rolled back to {pointer.generation_id}, flip {pointer.flip}")
        world.scheduler.sleep(world.rng.uniform(0.2, 2.0))
        if world.rng.random() < 0.6:
            generations.clear_hold(
                world.engine,
                expected_flip=pointer.flip,
                who=ON_CALL,
                why="simulated",
                at_ms=world.now_ms(),
            )
            world.scheduler.note("cleared the hold")
    except EXPECTED_ERRORS as error:
        world.scheduler.note(_told(world, error))


def publish_some(world: World) -> None:
    """The on-call publishes one of the generations that are kept, as `moonlark publish` does."""
    try:
        with read_snapshot(world.engine) as conn:
            known = generations.list_generations(conn)
            live = generations.read_live(conn)
        kept = sorted(
            g.generation_id
            for g in known
            if g.state in ("sealed", "staged", "published")
            and (live is None or g.generation_id != live.generation_id)
        )
        if not kept:
            return
        chosen = world.rng.choice(kept)
        stage_and_flip(
            world.engine,
            chosen,
            settings=settings_of(world),
            who=ON_CALL,
            why="simulated",
            hold=False,
            now_ms=world.now_ms,
            lease_now_ms=world.now_ms,
            monotonic=world.scheduler.monotonic,
            sleep=world.scheduler.sleep,
        )
        world.scheduler.note(f"published {chosen}")
    except EXPECTED_ERRORS as error:
        world.scheduler.note(_told(world, error))
