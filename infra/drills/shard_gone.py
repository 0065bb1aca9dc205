"""Drill `shard-gone`: a deployment of shards is killed with -9, or takes ten times its deadline.

Lists go on: each one made without it is marked, says which shards are missing, and holds the best
of the others (the checker compares with brute force over these); each one that is not marked is
whole. No request fails. Once it is back, lists are whole again.
"""

from tqdm import tqdm

from infra.drills.checker import check
from infra.drills.figures import Figures, Options
from infra.drills.record import Kind, Record
from infra.drills.sick_app import APP
from infra.drills.sick_rounds import FAULT_S, SickRounds, list_is_whole, running
from infra.drills.stack import DrillStack, drill_stack
from infra.drills.traffic import Client

ROUNDS = 8
ITEMS = 2_000
USERS = 1_000
CLIENTS = 4
SHARDS = DEPLOYMENTS = 4
SHARD_TIMEOUT_S = 0.5
SLOW_S = 10 * SHARD_TIMEOUT_S


class ShardlessClient(Client):
    """An item may be refused where the encoder is late: it is not what is gone here."""

    refusable: frozenset[Kind] = frozenset({"item"})


def environment(deployments: int) -> dict[str, str]:
    """Settings of the replicas: shards in so many deployments."""
    return {
        "MOONLARK_SHARD_PLACEMENT": "deployments",
        "MOONLARK_SHARD_DEPLOYMENTS": str(deployments),
        "MOONLARK_SHARD_TIMEOUT_S": str(SHARD_TIMEOUT_S),
    }


def run(options: Options) -> Figures:
    """`rounds` faults on a stack of their own."""
    with drill_stack(
        items=ITEMS,
        users=USERS,
        seed=options.seed,
        env=environment(DEPLOYMENTS),
        app=APP,
        shards=SHARDS,
    ) as stack:
        return run_on(stack, options, items=ITEMS, deployments=DEPLOYMENTS)


def run_on(
    stack: DrillStack,
    options: Options,
    *,
    items: int,
    deployments: int,
    fault_s: float = FAULT_S,
) -> Figures:
    """`rounds` faults on a stack that is there already: dead and slow in turn, one after another of
    the deployments."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures, record = Figures("shard-gone", rounds, options.seed), Record()
    faults = SickRounds(stack, record, figures, lambda: list_is_whole(stack.url, "idle1"), fault_s)
    clients = [
        ShardlessClient(n, stack.url, items, record, options.seed, prefix="g")
        for n in range(CLIENTS)
    ]
    with running(clients):
        for number in tqdm(range(rounds), "shard-gone", unit="round", disable=not options.progress):
            faults.ordinary()
            name = f"shards{number // 2 % deployments}"
            if number % 2 == 0:
                faults.dead(name)
            else:
                faults.slow(name, SLOW_S)
    check(record, stack.engine, stack.root, figures)
    faults.report()
    marked = sum(bool(answer.shards_missing) for answer in record.answers)
    figures.more["answers_shard_gone"] = marked
    if marked < rounds:
        figures.tell(f"only {marked} lists were made without a shard: the fault was not felt")
    return figures
