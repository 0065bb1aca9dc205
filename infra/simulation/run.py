"""One seed from an empty store to the last check, and many of them on many cores."""

import atexit
import logging
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from random import Random

import faiss
import pyarrow

from infra.simulation.chaos import Chaos
from infra.simulation.clients import CATEGORIES, WORDS, Client
from infra.simulation.ending import check_ending
from infra.simulation.fake_model import ENCODER_ID, embed_text
from infra.simulation.faulty_store import faulty
from infra.simulation.flips import flips_watched
from infra.simulation.nights import LEASE_S, STAGE_DEADLINE_S, NightShift
from infra.simulation.scheduler import Scheduler, Violation
from infra.simulation.world import Bench, World, open_bench, seeded_keys
from ray_jobs.encoders.item_text import compose, text_digest
from sql.catalog import ItemBody, ItemPut, put_items
from sql.events import EventKind, NewEvent, append

OPERATIONS = 50
"""Things that the clients of a seed do, together."""


@dataclass(frozen=True)
class Outcome:
    """What came of a seed. `error` None: every promise held."""

    seed: int
    steps: int
    answers: int
    exact: int
    flips: int
    digest: str
    error: str | None
    last_steps: tuple[str, ...]


def run_seed(
    seed: int,
    bench: Bench,
    *,
    operations: int = OPERATIONS,
    show: Callable[[str], None] | None = None,
) -> Outcome:
    """Simulate one seed. `show` is given each step."""
    scheduler = Scheduler(seed, show)
    world = World(scheduler, bench)
    error: str | None = None
    flips = 0
    try:
        with (
            faulty(world.engine, scheduler, world.faults),
            seeded_keys(Random(seed)),
            flips_watched(
                world, lease_ms=int(LEASE_S * 1000), deadline_ms=int(STAGE_DEADLINE_S * 1000)
            ),
        ):
            _simulate(world, operations)
        ((flips,),) = world.truth.rows("SELECT count(*) FROM live")
    except (Exception, Violation) as caught:  # noqa: BLE001 - the edge: a seed's outcome
        error = "".join(traceback.format_exception(caught))
    finally:
        world.truth.close()
    promises = world.promises
    return Outcome(
        seed=seed,
        steps=scheduler.step,
        answers=promises.answers,
        exact=promises.exact,
        flips=int(flips),
        digest=scheduler.trace.digest,
        error=error,
        last_steps=tuple(scheduler.trace.last),
    )


def run_seeds(seeds: range, *, jobs: int, operations: int = OPERATIONS) -> Iterator[Outcome]:
    """The outcomes in the order of the seeds, as they come; `jobs` processes."""
    if jobs == 1:
        with open_bench() as bench:
            one_thread()
            for seed in seeds:
                yield run_seed(seed, bench, operations=operations)
        return
    run = partial(_in_worker, operations=operations)
    with ProcessPoolExecutor(jobs, initializer=_start_worker) as pool:
        yield from pool.map(run, seeds)


def one_thread() -> None:
    """Numbers as small as these are slower, and in no fixed order, on more."""
    faiss.omp_set_num_threads(1)
    pyarrow.set_cpu_count(1)
    logging.disable(logging.CRITICAL)


_worker = ExitStack()
_benches: list[Bench] = []


def _start_worker() -> None:
    one_thread()
    _benches.append(_worker.enter_context(open_bench()))
    atexit.register(_worker.close)


def _in_worker(seed: int, operations: int) -> Outcome:
    return run_seed(seed, _benches[0], operations=operations)


def _simulate(world: World, operations: int) -> None:
    _begin(world)
    nights = NightShift(world)
    for _ in range(world.rng.choice((1, 2))):
        nights.make_now()
    chaos = Chaos(world, nights)
    world.replicas = [chaos.start_replica() for _ in range(world.rng.choice((2, 2, 3)))]
    clients = world.rng.choice((2, 3, 4))
    for number in range(clients):
        Client(world, number, operations // clients).start()
    chaos.start()
    world.scheduler.run()
    chaos.heal()
    check_ending(world)


def _begin(world: World) -> None:
    """A catalog and some history, as after an ingest."""
    rng = world.rng
    world.item_ids = [f"i{n}" for n in range(rng.randrange(10, 25))]
    world.user_ids = [f"u{n}" for n in range(rng.randrange(2, 6))]
    puts = []
    for item_id in world.item_ids:
        body = ItemBody(title=f"{rng.choice(WORDS)} {item_id}", category=rng.choice(CATEGORIES))
        text = compose(body.title, body.text, body.category)
        vectors = {ENCODER_ID: embed_text(text)}
        puts.append(ItemPut(item_id, body, text, text_digest(text), None, vectors))
    put_items(world.engine, puts, at_ms=world.now_ms())
    history = [
        NewEvent(rng.choice(world.user_ids), f"h{n}", EventKind.VIEW, rng.choice(world.item_ids))
        for n in range(8)
    ]
    append(world.engine, [history], received_at_ms=world.now_ms())
