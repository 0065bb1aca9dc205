"""Drills `kill-node` and `kill-gcs`: on three Ray nodes, two with replicas, beside a head.

`kill-node`: every process of a node with a replica is killed with -9, and a fresh node joins.
`kill-gcs`: the GCS is killed with -9, with which Ray ends all of the head, HAProxy's owner too; an
operator starts the head again, and it knows its cluster from rocksdb. Replicas live through it.

Nothing is lost, nothing is there twice, and an event that is tried again for a minute is stored.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from infra.client import Moonlark
from infra.drills.figures import Figures, Options
from infra.drills.kills import ITEMS, PATIENT, USERS, Rounds, whole_again
from infra.drills.stack import NODE_CPUS, DrillStack, drill_stack
from infra.drills.victims import family, gateways, gcs, kill, proxies, wait_for

ROUNDS = 5
NODES = 2
GCS_DOWN_S = 5.0
"""From the kill to the restart."""


def run_node(options: Options) -> Figures:
    """`rounds` nodes."""
    figures = _figures("kill-node", options)

    with _three_nodes(options) as stack:

        def harm(_: int, rng: np.random.Generator) -> None:
            pids = gateways(stack)
            hosts = [n for n in stack.nodes if any(p.pid in pids for p in family(n))]
            assert hosts, "replicas run on the nodes beside the head"
            most = figures.more.get("nodes_with_replicas_max", 0)
            figures.more["nodes_with_replicas_max"] = max(most, len(hosts))
            node = hosts[int(rng.integers(len(hosts)))]
            gone = family(node)
            for process in gone:
                kill(process)
            stack.nodes.remove(node)
            stack.nodes.append(stack.cluster.add_node(NODE_CPUS))
            whole_again(stack, [process.pid for process in gone])

        Rounds(stack, harm, PATIENT).run(options, figures.rounds, figures)
    return figures


def run_gcs(options: Options) -> Figures:
    """`rounds` deaths of the GCS."""
    figures = _figures("kill-gcs", options)
    survived: list[int] = []
    with _three_nodes(options) as stack:

        def harm(_: int, __: np.random.Generator) -> None:
            before = set(gateways(stack))
            for process in gcs(stack):
                kill(process)
            time.sleep(GCS_DOWN_S)
            stack.cluster.restart_head([p for node in stack.nodes for p in family(node)])
            wait_for("HAProxy", lambda: bool(proxies(stack)) and _answers(stack))
            whole_again(stack)
            survived.append(len(before & set(gateways(stack))))

        Rounds(stack, harm, PATIENT).run(options, figures.rounds, figures)
    figures.more["replicas_that_lived_on_min"] = min(survived)
    return figures


def _figures(scenario: str, options: Options) -> Figures:
    return Figures(scenario, ROUNDS if options.rounds is None else options.rounds, options.seed)


@contextmanager
def _three_nodes(options: Options) -> Iterator[DrillStack]:
    with drill_stack(items=ITEMS, users=USERS, seed=options.seed, nodes=NODES) as stack:
        yield stack


def _answers(stack: DrillStack) -> bool:
    with Moonlark(stack.url, timeout_s=1.0) as api:
        return api.ready()
