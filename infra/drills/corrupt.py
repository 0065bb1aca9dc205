"""Drill `corrupt`: a byte flips or an end is cut off, in every file of a generation and beside it.

`rounds` places of every file, the manifest among them: the shipped generation watch must refuse the
staged generation, by the name of that file, in its lease; go on with the last good one; and load it
once it is whole again. For one place of each file the damaged generation is made live, and a
replica is started on it: it must answer from the one before, marked.

Beside the generations: the ledger of erasures and its key. A damaged line must be told by its
place, and be given back from the database; a damaged key must be refused. Where a line is gone from
both, nobody knows any more: see infra/RELIABILITY.md.

Replicas: see `infra.drills.local`.
"""

import time
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from infra.drills.damage import Damage, damaged, draw
from infra.drills.figures import Figures, Options
from infra.drills.generation import make_generation
from infra.drills.local import LocalStore, local_store, quiet, replica
from infra.drills.stack import now_ms
from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.ranking.activity import Activity
from ray_jobs.ranking.fusion import FEATURES, Fusion, UserWeights
from ray_jobs.ranking.neighbours import count_neighbours
from ray_jobs.ranking.priors import Priors
from ray_jobs.ranking.trend import HOUR_MS
from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.placement import FamilyChoice
from serve.generation_watch import GenerationWatch
from serve.loaded_generation import LoadedGeneration
from sql import generations
from sql.engine import read_snapshot
from sql.erasure import apply_ledger, erase_user
from sql.erasure_ledger import KEY_NAME, LEDGER_NAME, Erased, Ledger
from sql.errors import ErasureKeyLost
from sql.events import EventKind, NewEvent, append

ROUNDS = 200
"""Places in each file."""
ITEMS = 300
IVF = FamilyChoice("IVF,SQfp16", nlist=8, nprobe=4)
GOOD, HURT = "g0", "g1"
ERASED = 20


def run(options: Options) -> Figures:
    """`rounds` places of every file."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures("corrupt", rounds, options.seed)
    counts: Counter[str] = Counter()
    rng = np.random.default_rng(options.seed)
    started_s = time.monotonic()
    with quiet(), local_store(items=ITEMS, seed=options.seed) as store:
        store.publish(GOOD, options.seed)
        _make_whole(store, HURT, options.seed + 1)
        watched = _Watched(store, figures, counts)
        files = sorted(watched.files)
        with tqdm(
            total=rounds * (len(files) + 2),
            desc="corrupt",
            unit="place",
            disable=not options.progress,
        ) as bar:
            for path in files:
                for damage in draw(rng, path.stat().st_size, rounds):
                    watched.refuses(path, damage)
                    bar.update()
                _live_and_damaged(store, path, figures, counts, rng)
            _ledger(store, figures, counts, rng, rounds, bar)
    figures.more |= {"files": len(files) + 2, **dict(counts)}
    figures.more["detected_share"] = counts["detected"] / max(1, counts["places"])
    figures.more["seconds"] = round(time.monotonic() - started_s, 1)
    return figures


def _make_whole(store: LocalStore, generation_id: str, seed: int) -> None:
    """A generation with every kind of file, staged."""
    directory = generation_directory(store.root, generation_id)
    directory.mkdir(parents=True)
    (directory / "metrics.json").write_text('{"ndcg@10": 0.1}\n', encoding="utf-8")
    _write_priors(directory)
    make_generation(store.engine, store.root, generation_id, seed=seed, at_ms=now_ms(), choice=IVF)
    generations.stage(store.engine, generation_id)


def _write_priors(directory: Path) -> None:
    """As the night writes them, with weights that change no list."""
    nothing = (0.0,) * len(FEATURES)
    ordinals = np.arange(ITEMS, dtype=np.int64)
    activity = Activity.of_hours([(1, (ordinals, np.ones(ITEMS, np.float32)))], 2 * HOUR_MS)
    users, items = np.repeat(np.arange(50), 6), np.tile(np.arange(60), 5)
    neighbours = count_neighbours(users, items.astype(np.int64), ITEMS)
    of_users = UserWeights(known=nothing, new=nothing)
    fusion = Fusion(lively=of_users, quiet=of_users, usual_month=0, questions=0, activity_hour=2)
    Priors(fusion, activity, neighbours).write(directory, whole_file)


class _Watched:
    """A replica's watch over both generations. The good one is opened once, for all rounds."""

    def __init__(self, store: LocalStore, figures: Figures, counts: Counter[str]) -> None:
        self._store, self._figures, self._counts = store, figures, counts
        self._good = LoadedGeneration.open(store.root, GOOD)
        directory = generation_directory(store.root, HURT)
        self.files = [path for path in directory.rglob("*") if path.is_file()]

    def refuses(self, path: Path, damage: Damage) -> None:
        """A replica that looks now refuses it by name; one that looks later takes it."""
        self._counts["places"] += 1
        with damaged(path, damage):
            loaded, refused = self._look()
        reason = refused.get(HURT, "")
        if HURT in loaded:
            self._figures.tell(f"{path.name} with {damage}: it was loaded")
        elif str(path) not in reason:
            self._figures.tell(f"{path.name} with {damage}: refused as {reason!r}")
        else:
            self._counts["detected"] += 1
        if GOOD not in loaded:
            self._figures.failed_requests += 1
            self._figures.tell(f"{path.name} with {damage}: the good generation went too")
        if damage.place == 0:  # once a file is enough: it costs a load
            loaded, refused = self._look()
            if HURT not in loaded:
                self._figures.tell(f"{path.name} is whole again, but {refused}")

    def _look(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """What the lease of a replica says that looked once."""
        watch = GenerationWatch(
            self._store.engine, self._store.root, "drill", 1.0, now_ms, self._open
        )
        watch.look()
        with read_snapshot(self._store.engine) as conn:
            lease = next(
                r for r in generations.fresh_replicas(conn, now_ms()) if r.replica_id == "drill"
            )
        generations.drop_replica(self._store.engine, "drill")
        return tuple(lease.ready), dict(lease.refused)

    def _open(self, root: Path, generation_id: str, sealed_digest: str) -> LoadedGeneration:
        if generation_id == GOOD:
            return self._good
        return LoadedGeneration.open(root, generation_id, sealed_digest)


def _live_and_damaged(
    store: LocalStore,
    path: Path,
    figures: Figures,
    counts: Counter[str],
    rng: np.random.Generator,
) -> None:
    """The pointer names the damaged one, and a replica starts."""
    _flip(store, HURT)
    (damage,) = draw(rng, path.stat().st_size, 1)
    with damaged(path, damage), replica(store) as client:
        answer = client.get("/v1/users/somebody/recommendations")
        body = answer.json()
        told = (answer.status_code, body.get("generation"), body.get("degraded"))
        if told != (200, GOOD, ["generation_behind"]) or not body["items"]:
            figures.failed_requests += 1
            figures.tell(f"{path.name} damaged and live: {told}")
        counts["answered_from_the_good_one"] += 1
    _flip(store, GOOD)


def _flip(store: LocalStore, generation_id: str) -> None:
    with read_snapshot(store.engine) as conn:
        live = generations.read_live(conn)
    assert live is not None, "the good one was published"
    generations.flip(
        store.engine,
        generation_id,
        expected_flip=live.flip,
        who="drill",
        why="drill",
        hold=False,
        at_ms=now_ms(),
    )


def _ledger(
    store: LocalStore,
    figures: Figures,
    counts: Counter[str],
    rng: np.random.Generator,
    rounds: int,
    bar: "tqdm[object]",
) -> None:
    """The erasures of some users, and every place of ledger and key."""
    ledger = Ledger.open(store.root)
    for number in range(ERASED):
        event = NewEvent(f"gone{number}", "e", EventKind.VIEW, "i1", occurred_at_ms=now_ms())
        append(store.engine, [[event]], received_at_ms=now_ms())
        erase_user(store.engine, ledger, event.user_id, at_ms=now_ms())
    entries = set(ledger.read())
    path = store.root / LEDGER_NAME
    for damage in draw(rng, path.stat().st_size, rounds):
        with damaged(path, damage):
            counts["places"] += 1
            if _ledger_told(ledger, entries, damage, figures):
                counts["detected"] += 1
            apply_ledger(store.engine, ledger)
            if set(ledger.read()) != entries:
                figures.lost += 1
                figures.tell(f"{LEDGER_NAME} with {damage}: not given back from the database")
        bar.update()
    key = store.root / KEY_NAME
    for damage in draw(rng, key.stat().st_size, rounds):
        with damaged(key, damage):
            counts["places"] += 1
            try:
                Ledger.open(store.root).examine()
            except ErasureKeyLost as error:
                counts["detected"] += str(key) in str(error)
            else:
                figures.tell(f"{KEY_NAME} with {damage}: taken")
        bar.update()


def _ledger_told(ledger: Ledger, entries: set[Erased], damage: Damage, figures: Figures) -> bool:
    """Whether what is lost is told by its place. Where the file ends with a whole line, only the
    rows of the database can tell; where a line end is damaged, and no line, nothing is lost."""
    sound, places = ledger.examine()
    lost = entries - set(sound)
    if not set(sound) <= entries:
        figures.tell(f"{LEDGER_NAME} with {damage}: a line that nobody wrote")
        return False
    if not lost or (damage.kind == "cut" and not places):
        return True
    if not places or not places[0].startswith(str(ledger.path)):
        figures.tell(f"{LEDGER_NAME} with {damage}: {len(lost)} lost, told {places}")
        return False
    return True
