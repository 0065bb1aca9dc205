"""A week of nights in a minute: one fails at each step, one is bad, one rolled back, one rebuilt.

The shipped steps on a small made catalog (`infra.drills.small_night`), a night after the other, on
a log that grows. After every step a reader looks at what is live: it must be sealed, whole, and
answer. What is left at the end must be accounted for, to the last folder and row.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from infra.drills.local import LocalStore, local_store
from infra.drills.small_night import Step, fill, open_small_night, steps
from infra.drills.stack import now_ms
from ray_jobs.encoders.train_config import TrainConfig, tiny
from ray_jobs.nightly.build import ShardTask, build_shard, build_with
from ray_jobs.nightly.export import export
from ray_jobs.nightly.prune import prune
from ray_jobs.nightly.rebuild import as_exported
from ray_jobs.nightly.rollback import rollback
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.verify import check_files
from ray_jobs.nightly.work_files import discard_old_work
from ray_jobs.nightly.workspace import GateRefused
from ray_jobs.shards.delta import Delta
from ray_jobs.shards.manifest import open_manifest
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.search import search
from sql import generations
from sql.engine import read_snapshot
from sql.events import EventKind, NewEvent, append
from sql.tables import artifacts, sessions
from sql.tables import generations as registry

SEED = 1
RECIPE: TrainConfig = tiny(SEED)
STEPS = list(steps(RECIPE))


@pytest.fixture
def store() -> Iterator[LocalStore]:
    with local_store(items=0, seed=SEED) as made:
        fill(made, seed=SEED, users=60)
        yield made


def a_day(store: LocalStore, number: int) -> None:
    """The log grows: readers go on, and some are new."""
    requests = [
        [
            NewEvent(f"reader{user}", f"d{number}-{n}", EventKind.CLICK, f"space{3 * number + n}")
            for n in range(3)
        ]
        for user in range(number * 5, number * 5 + 20)
    ]
    append(store.engine, requests, received_at_ms=now_ms())


def live(store: LocalStore) -> str | None:
    with read_snapshot(store.engine) as conn:
        pointer = generations.read_live(conn)
    return pointer.generation_id if pointer else None


def look(store: LocalStore) -> None:
    """The reader: what the pointer names is published, whole, and answers a query."""
    name = live(store)
    if name is None:
        return  # the first night is not over
    with read_snapshot(store.engine) as conn:
        found = generations.get_generation(conn, name)
    assert found is not None
    assert found.state == "published", f"{name} is live and {found.state}"
    directory = folder(store, name)
    shards = ShardSet.open(directory, open_manifest(directory))
    _, (first_D, *_) = shards.vectors_of(shards.ordinals[:1])
    scores, ordinals = search(shards, Delta.empty(shards), first_D, 10)
    assert len(ordinals) == 10
    assert bool(np.isfinite(scores).all())


def folder(store: LocalStore, name: str) -> Path:
    return store.root / "generations" / name


class Fault(RuntimeError):
    """Of the infrastructure, half-way through a step."""


def breaks_after(step: Step, night: Night) -> Report:
    """All its work is done, and it dies before it can say so: the worst moment."""
    step(night)
    raise Fault("the node is gone")


def breaks_before(step: Step, night: Night) -> Report:
    raise Fault("the node is gone")


def run(store: LocalStore, name: str, *, rebuild: str = "", faults: bool = False) -> Night:
    """A night. With `faults`, each step in turn breaks before and after its work, and is run again
    as Airflow's retry does."""
    night = open_small_night(store, name)
    settings = {"publish": not rebuild, "keep_generations": 4, "holdout_hours": 1.0}
    # Of a hundred questions on a small log a good night's lists may seem worse by chance.
    settings |= {"gate_margin": 0.5}
    night = replace(night, settings=night.settings.model_copy(update=settings))
    for step_name, step in steps(RECIPE).items():
        doing = partial(export, rebuild=rebuild) if step_name == "export" else step
        for broken in (breaks_before, breaks_after) if faults else ():
            with pytest.raises(Fault):
                run_step(night, step_name, partial(broken, doing))
            look(store)
        now = as_exported(night.settings, night.workspace)
        run_step(replace(night, settings=now), step_name, doing)
        look(store)
    return night


def bad(night: Night) -> Report:
    """The items of each shard are mixed up: each is stored at another one's vector."""

    def mixed(tasks: list[ShardTask]) -> list[int]:
        return [
            build_shard(replace(task, vectors_ND=task.vectors_ND[::-1].copy())) for task in tasks
        ]

    return build_with(night, mixed)


@pytest.mark.timeout(600)
def test_a_week_of_nights_ends_with_nothing_broken_and_nothing_left(store: LocalStore) -> None:
    run(store, "g1")
    counts = []
    for number, name in enumerate(("g2", "g3"), start=1):
        a_day(store, number)
        run(store, name, faults=name == "g2")
        assert live(store) == name, "each step failed twice, and it was published all the same"
        counts.append(state(store, name).event_count)
    assert counts == sorted(set(counts)), "the log grew"

    a_day(store, 3)
    night = open_small_night(store, "g4")
    with pytest.raises(GateRefused):
        for step_name, step in steps(RECIPE).items():
            doing = bad if step_name == "build" else step
            run_step(night, step_name, doing)
            look(store)
    assert (live(store), state(store, "g4").state) == ("g3", "failed")

    a_day(store, 4)
    run(store, "g5")
    assert live(store) == "g5"
    back = rollback(store.engine, None, who="on-call", why="a week", settings=night.settings)
    look(store)
    assert live(store) == "g3"
    generations.clear_hold(
        store.engine, expected_flip=back.flip, who="on-call", why="mended", at_ms=now_ms()
    )

    run(store, "g6", rebuild="g5")
    assert (live(store), state(store, "g6").state) == ("g3", "sealed")
    assert digests(store, "g6") == digests(store, "g5"), "the night made again is the same night"

    a_day(store, 5)
    last = run(store, "g7")
    assert live(store) == "g7"
    nothing_is_left(store, replace(last, settings=night.settings))


def state(store: LocalStore, name: str) -> generations.Generation:
    with read_snapshot(store.engine) as conn:
        found = generations.get_generation(conn, name)
    assert found is not None
    return found


def digests(store: LocalStore, name: str) -> dict[str, str]:
    """Of what users are answered from; `metrics.json` says what was live when it was judged."""
    with read_snapshot(store.engine) as conn:
        files = generations.list_artifacts(conn, name)
    return {file.path: file.sha256 for file in files if file.path != "metrics.json"}


def nothing_is_left(store: LocalStore, night: Night) -> None:
    """A week later, when what broke off may go: every folder and row belongs to a generation that
    may still be gone back to, and every digest holds."""
    after_ms = now_ms() + 1
    discard_old_work(store.engine, store.root, before_ms=after_ms)
    prune(night)
    look(store)
    with read_snapshot(store.engine) as conn:
        known = {g.generation_id: g for g in generations.list_generations(conn)}
        of_sessions = set(conn.execute(select(sessions.c.generation_id).distinct()).scalars())
        of_artifacts = set(conn.execute(select(artifacts.c.generation_id).distinct()).scalars())
        registered = set(conn.execute(select(registry.c.generation_id)).scalars())
    kept = {name for name, found in known.items() if found.state != "pruned"}
    assert {found.state for found in known.values()} <= {"sealed", "published", "pruned"}
    assert list((store.root / "work").iterdir()) == []
    assert {path.name for path in (store.root / "generations").iterdir()} == kept
    assert of_sessions == kept
    assert of_artifacts <= registered
    for name in kept:
        check_files(folder(store, name), known[name].manifest_digest)
    assert {"g7", "g3"} <= kept
