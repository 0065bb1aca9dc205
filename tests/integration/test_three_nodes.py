"""Past one machine: shards spread over three nodes by the memory they ask for, gateway replicas by
load. A node dies: lists go on, marked, each the best of the shards that answered; it comes back,
and they are whole."""

import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from infra.drills.checker import check
from infra.drills.figures import Figures
from infra.drills.record import Answer, Record
from infra.drills.sick_rounds import list_is_whole, running, until
from infra.drills.stack import NODE_CPUS, DrillStack, drill_stack
from infra.drills.traffic import Client
from infra.drills.victims import family, gateways, kill, wait_for

ITEMS, USERS, CLIENTS = 600, 100, 2
NODES = DEPLOYMENTS = 3
SHARDS = 6
SHARD_MEMORY_BYTES = 200 << 20
NODE_MEMORY_BYTES = 300 << 20
"""Of which one shard replica has room, and a second one has not."""
REPLICAS, MOST_REPLICAS = 2, 3
CROWD = 24
"""At once: more than two replicas are to have at a time, less than HAProxy refuses."""
ORDINARY_S, GONE_S = 2.0, 12.0
SHARD_TIMEOUT_S = 3
"""Longer than a busy machine stands still: what is marked is for want of a node alone."""
WHOLE_IN_A_ROW = 12
IN_FLIGHT_S = SHARD_TIMEOUT_S
"""What was asked before a change has been answered after it."""


class Shopper(Client):
    """Changes no items: the node that dies may be the encoder's."""

    def _item(self, http: httpx.Client) -> None:
        self._recommend(http)


@pytest.fixture(scope="module")
def stack() -> Iterator[DrillStack]:
    """A head that runs no replica, three nodes, six shards in three deployments."""
    settings = {
        "MOONLARK_SHARD_PLACEMENT": "deployments",
        "MOONLARK_SHARD_DEPLOYMENTS": str(DEPLOYMENTS),
        "MOONLARK_SHARD_REPLICAS_PER_NODE": "1",
        "MOONLARK_SHARD_MEMORY_BYTES": str(SHARD_MEMORY_BYTES),
        "MOONLARK_SHARD_TIMEOUT_S": str(SHARD_TIMEOUT_S),
        "MOONLARK_MAX_REPLICAS": str(MOST_REPLICAS),
        "MOONLARK_REPLICA_TARGET_REQUESTS": "4",
        "MOONLARK_UPSCALE_DELAY_S": "1",
        "MOONLARK_DOWNSCALE_DELAY_S": "5",
        "MOONLARK_USER_LISTS_PER_MINUTE": "100000",
    }
    with drill_stack(
        items=ITEMS,
        users=USERS,
        seed=8,
        replicas=REPLICAS,
        env=settings,
        shards=SHARDS,
        nodes=NODES,
        node_memory_bytes=NODE_MEMORY_BYTES,
    ) as made:
        yield made


def placed(stack: DrillStack) -> dict[str, psutil.Process]:
    """Lease of each living replica -> the node on which it runs. Those of shards begin so."""
    node_of = {process.pid: node for node in stack.nodes for process in family(node)}
    return {
        lease: node_of[pid]
        for pid, lease in gateways(stack).items()
        if pid in node_of  # else of a node that is gone, whose lease runs out by itself
    }


def shard_nodes(stack: DrillStack) -> dict[int, psutil.Process]:
    """Deployment number -> its node."""
    return {
        int(lease.partition("-")[0].removeprefix("shards")): node
        for lease, node in placed(stack).items()
        if lease.startswith("shards")
    }


def gateway_leases(stack: DrillStack) -> list[str]:
    return [lease for lease in placed(stack) if not lease.startswith("shards")]


def searched(answer: Answer) -> bool:
    """Whether shards were asked: whoever has done nothing but dislike yet gets what is popular."""
    return answer.basis == "session"


def is_whole(stack: DrillStack) -> bool:
    return list_is_whole(stack.url, "idle1")


@pytest.mark.timeout(1_200)
def test_lists_go_on_without_a_node_and_are_whole_when_it_is_back(stack: DrillStack) -> None:
    wait_for("all shards", lambda: len(shard_nodes(stack)) == DEPLOYMENTS)
    where = shard_nodes(stack)
    assert len({node.pid for node in where.values()}) == NODES
    # Two gateways on three nodes: one has none, and takes nothing away but its shards.
    hosts = {node.pid for lease, node in placed(stack).items() if not lease.startswith("shards")}
    victim, node = next((n, node) for n, node in where.items() if node.pid not in hosts)
    lost = tuple(number for number in range(SHARDS) if number % DEPLOYMENTS == victim)

    figures, record = Figures("three-nodes", 1, 8), Record()
    clients = [Shopper(n, stack.url, ITEMS, record, 8, prefix="n") for n in range(CLIENTS)]
    with running(clients):
        time.sleep(ORDINARY_S)
        before = len(record.answers)
        for process in family(node):
            kill(process)
        stack.nodes.remove(node)
        wait_for("a list that is marked", lambda: not is_whole(stack))
        time.sleep(IN_FLIGHT_S)
        felt = len(record.answers)
        time.sleep(GONE_S)
        assert not is_whole(stack), "no other node has room for its shards"
        gone = len(record.answers)
        stack.nodes.append(stack.cluster.add_node(NODE_CPUS, NODE_MEMORY_BYTES))
        assert until(lambda: is_whole(stack), time.monotonic() + 120, WHOLE_IN_A_ROW)
        time.sleep(IN_FLIGHT_S)
        back = len(record.answers)
        time.sleep(2 * ORDINARY_S)

    # Every request was answered with 200, every list with the best of the shards that it names.
    check(record, stack.engine, stack.root, figures)
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert not any(answer.degraded for answer in record.answers[:before])
    without_node = [answer for answer in record.answers[felt:gone] if searched(answer)]
    assert len(without_node) > 20
    for answer in without_node:
        assert (answer.shards_missing, answer.degraded) == (lost, ("shard_gone",)), answer
    assert len(record.answers) - back > 10
    assert not any(answer.degraded for answer in record.answers[back:])
    assert shard_nodes(stack).keys() == where.keys()


@pytest.mark.timeout(1_200)
def test_a_crowd_gets_another_gateway_and_none_of_it_is_refused(stack: DrillStack) -> None:
    wait_for("two gateways", lambda: len(gateway_leases(stack)) == REPLICAS)
    ended, statuses = threading.Event(), []

    def ask() -> None:
        with httpx.Client(base_url=stack.url, timeout=30) as http:
            while not ended.is_set():
                answer = http.get("/v1/users/idle1/recommendations")
                statuses.append(answer.status_code)

    crowd = [threading.Thread(target=ask, daemon=True) for _ in range(CROWD)]
    for asker in crowd:
        asker.start()
    try:
        wait_for("a third gateway", has_gateways(stack, MOST_REPLICAS))
    finally:
        ended.set()
        for asker in crowd:
            asker.join()
    assert set(statuses) == {200}
    wait_for("two gateways again", has_gateways(stack, REPLICAS))


def has_gateways(stack: DrillStack, count: int) -> Callable[[], bool]:
    return lambda: len(gateway_leases(stack)) == count
