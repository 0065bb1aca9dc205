"""A week of nights in two minutes: one fails at each step and goes on, at each step one is left for
good, one is bad, one refuses its data, one is rolled back, one rebuilt.

The shipped steps on a small made catalog (`infra.drills.small_night`), a night a day by a clock
that is moved, on a log that grows. After every step a reader looks at what is live: it must be
sealed, whole, and answer. What is left at the end must be accounted for, to the last folder and
row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from infra.drills.local import LocalStore, local_store
from infra.drills.small_night import Step, Words, fill, open_small_night, steps
from infra.drills.stack import now_ms
from ray_jobs.encoders.train_config import TrainConfig, tiny
from ray_jobs.nightly.build import ShardTask, build_shard, build_with, plan_shards
from ray_jobs.nightly.build_shard import one_shard
from ray_jobs.nightly.check import DAY_MS
from ray_jobs.nightly.export import export
from ray_jobs.nightly.parity import parity_with
from ray_jobs.nightly.prune import prune
from ray_jobs.nightly.rebuild import as_exported
from ray_jobs.nightly.rollback import rollback
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.step_figures import PLAN, SHARD, shard_step
from ray_jobs.nightly.verify import check_files
from ray_jobs.nightly.work_files import discard_old_work
from ray_jobs.nightly.workspace import DataRefused, GateRefused
from ray_jobs.shards.delta import Delta
from ray_jobs.shards.manifest import open_manifest
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.search import search
from sql import generations
from sql.engine import read_snapshot
from sql.events import EventKind, NewEvent, append
from sql.tables import artifacts, sessions

SEED = 1
RECIPE: TrainConfig = tiny(SEED)
SHARDS = 2
A_READER = 3
"""Events of each of the READERS of a day."""
READERS = 20


@dataclass
class Week:
    """A store, and a clock that goes on by days."""

    store: LocalStore
    began_ms: int
    day: int = 0

    def now_ms(self) -> int:
        return self.began_ms + self.day * DAY_MS


@pytest.fixture
def week() -> Iterator[Week]:
    with local_store(items=0, seed=SEED) as made:
        fill(made, seed=SEED, users=60)
        yield Week(made, now_ms())


def a_day(week: Week, each: int = A_READER) -> None:
    """The log grows: readers go on, and some are new."""
    week.day += 1
    at_ms = week.now_ms() - 3_600_000
    requests = [
        [
            NewEvent(
                reader,
                f"d{week.day}-{n}",
                EventKind.CLICK,
                f"space{A_READER * week.day + n}",
                occurred_at_ms=at_ms,
            )
            for n in range(each)
        ]
        for reader in readers(week)
    ]
    append(week.store.engine, requests, received_at_ms=at_ms)


def readers(week: Week) -> list[str]:
    """Who come on that day."""
    return [f"reader{user}" for user in range(week.day * 5, week.day * 5 + READERS)]


def take_back(week: Week, each: int) -> None:
    """What was more of the day than usual."""
    at_ms = week.now_ms()
    requests = [
        [
            NewEvent(
                reader,
                f"undo{week.day}-{n}",
                EventKind.UNDO,
                undoes=f"d{week.day}-{n}",
                occurred_at_ms=at_ms,
            )
            for n in range(A_READER, each)
        ]
        for reader in readers(week)
    ]
    append(week.store.engine, requests, received_at_ms=at_ms)


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


def in_parts() -> dict[str, Step]:
    """As Airflow runs them: the shards are planned and built one by one, and parity is measured."""
    made: dict[str, Step] = {}
    for name, step in steps(RECIPE).items():
        if name == "build":
            made[PLAN] = plan_shards
            made |= {shard_step(number): partial(one_shard, number) for number in range(SHARDS)}
        made[name] = step
        if name == "verify":
            made["parity"] = lambda night: parity_with(night, Words())
    return made


def open_night(week: Week, name: str, **settings: object) -> Night:
    night = open_small_night(week.store, name)
    told = {"shards": SHARDS, "keep_generations": 4, "check_min_events": 50, **settings}
    changed = night.settings.model_copy(update=told)
    return replace(night, settings=changed, now_ms=week.now_ms)


def run(week: Week, name: str, *, rebuild: str = "", faults: bool = False) -> Night:
    """A night. With `faults`, each step as Airflow runs them breaks in turn before and after its
    work, and is run again as Airflow's retry does."""
    # Of a hundred questions on a small log a good night's lists may seem worse by chance.
    night = open_night(week, name, publish=not rebuild, gate_margin=0.5)
    for step_name, step in (in_parts() if faults else steps(RECIPE)).items():
        doing = partial(export, rebuild=rebuild) if step_name == "export" else step
        beside = step_name.startswith(SHARD)
        for broken in (breaks_before, breaks_after) if faults else ():
            with pytest.raises(Fault):
                run_step(night, step_name, partial(broken, doing), beside_others=beside)
            look(week.store)
        now = as_exported(night.settings, night.workspace)
        run_step(replace(night, settings=now), step_name, doing, beside_others=beside)
        look(week.store)
    return night


def left_at(week: Week, name: str, last: str) -> None:
    """A night that breaks when a step has done its work, and that nobody takes up again."""
    night = open_night(week, name, gate_margin=0.5)
    for step_name, step in in_parts().items():
        beside = step_name.startswith(SHARD)
        if step_name == last:
            with pytest.raises(Fault):
                run_step(night, step_name, partial(breaks_after, step), beside_others=beside)
            return
        run_step(night, step_name, step, beside_others=beside)
    raise ValueError(f"no step {last}")


def bad(night: Night) -> Report:
    """The items of each shard are mixed up: each is stored at another one's vector."""

    def mixed(tasks: list[ShardTask]) -> list[int]:
        return [
            build_shard(replace(task, vectors_ND=task.vectors_ND[::-1].copy())) for task in tasks
        ]

    return build_with(night, mixed)


@pytest.mark.timeout(600)
def test_a_week_of_nights_ends_with_nothing_broken_and_nothing_left(week: Week) -> None:
    store = week.store
    run(week, "g1")
    counts = []
    for name in ("g2", "g3"):
        a_day(week)
        run(week, name, faults=name == "g2")
        assert live(store) == name, "each step failed twice, and it was published all the same"
        counts.append(state(store, name).event_count)
    assert counts == sorted(set(counts)), "the log grew"

    before_publish = list(in_parts())[: list(in_parts()).index("publish")]
    for step_name in before_publish:
        left_at(week, f"left-{step_name}", step_name)
        look(store)
    assert live(store) == "g3"

    a_day(week)
    with pytest.raises(GateRefused):
        for step_name, step in steps(RECIPE).items():
            doing = bad if step_name == "build" else step
            run_step(open_night(week, "g4"), step_name, doing)
            look(store)
    assert (live(store), state(store, "g4").state) == ("g3", "failed")

    a_day(week)
    run(week, "g5")
    assert live(store) == "g5"
    assert state(store, "g5").metrics["check_volume"] == 1.0, "a day as the three before it"
    back = rollback(
        store.engine,
        None,
        who="on-call",
        why="a week",
        settings=open_night(week, "g5").settings,
        now_ms=week.now_ms,
    )
    look(store)
    assert live(store) == "g3"
    generations.clear_hold(
        store.engine, expected_flip=back.flip, who="on-call", why="mended", at_ms=week.now_ms()
    )

    run(week, "g6", rebuild="g5")
    assert (live(store), state(store, "g6").state) == ("g3", "sealed")
    assert digests(store, "g6") == digests(store, "g5"), "the night made again is the same night"

    a_day(week, each=6 * A_READER)
    with pytest.raises(DataRefused, match="CHECK_MAX_VOLUME"):
        run(week, "g7")
    look(store)
    assert (live(store), state(store, "g7").state) == ("g3", "failed")
    take_back(week, each=6 * A_READER)
    run(week, "g8")
    assert live(store) == "g8"
    assert state(store, "g8").metrics["check_volume"] == 1.0, "without what was taken back"
    nothing_is_left(week, {f"left-{step_name}" for step_name in before_publish})


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


def nothing_is_left(week: Week, abandoned: set[str]) -> None:
    """When what broke off may go, every folder and row belongs to a generation that may still be
    gone back to, and every digest holds."""
    store = week.store
    discard_old_work(store.engine, store.root, before_ms=week.now_ms() + 1)
    prune(open_night(week, "g8"))
    look(store)
    with read_snapshot(store.engine) as conn:
        known = {g.generation_id: g for g in generations.list_generations(conn)}
        of_sessions = set(conn.execute(select(sessions.c.generation_id).distinct()).scalars())
        of_artifacts = set(conn.execute(select(artifacts.c.generation_id).distinct()).scalars())
    gone = {name for name, found in known.items() if found.state == "pruned"}
    kept = set(known) - gone
    assert gone == {"g1", "g4", "g7"} | abandoned, "the oldest, and what failed"
    assert {known[name].state for name in kept} <= {"sealed", "published"}
    assert {"g8", "g3"} <= kept
    assert list((store.root / "work").iterdir()) == []
    assert {path.name for path in (store.root / "generations").iterdir()} == kept
    assert of_sessions == kept
    assert of_artifacts == kept
    for name in kept:
        check_files(folder(store, name), known[name].manifest_digest)
