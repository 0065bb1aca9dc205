"""The gateway asks all deployments of shards at once, and none of them longer than it may."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping

import numpy as np
import pytest

from ray_jobs.shards.distant import Reply, ShardQuery, VectorsQuery
from serve.patience import LEFT_ALONE_S, MISSES_UNTIL_LEFT_ALONE
from serve.shard_search import AskDeployment, ShardCalls

NOTHING: Reply = (np.zeros(0, np.bool_), np.zeros((0, 4), np.float32))
QUERIES: Mapping[int, ShardQuery] = {n: VectorsQuery(np.zeros(0, np.int64)) for n in range(5)}
WAIT_S = 0.01


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A replica's loop, in a thread of its own."""
    running = asyncio.new_event_loop()
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    yield running
    running.call_soon_threadsafe(running.stop)
    thread.join()
    running.close()


class Deployment:
    def __init__(self, behave: Callable[[], Awaitable[None]]) -> None:
        self.behave = behave
        self.asked: list[set[int]] = []

    async def __call__(
        self, generation_id: str, queries: Mapping[int, ShardQuery]
    ) -> Mapping[int, Reply]:
        self.asked.append(set(queries))
        await self.behave()
        return dict.fromkeys(queries, NOTHING)


async def answers() -> None: ...


async def hangs() -> None:
    await asyncio.Event().wait()


async def fails() -> None:
    raise ConnectionError("it was killed")


def test_each_deployment_is_asked_for_its_own_shards(loop: asyncio.AbstractEventLoop) -> None:
    both = [Deployment(answers), Deployment(answers)]
    calls = ShardCalls(both, loop)
    assert calls.ask("g", QUERIES, 5).keys() == QUERIES.keys()
    assert [deployment.asked for deployment in both] == [[{0, 2, 4}], [{1, 3}]]


@pytest.mark.parametrize("behave", [hangs, fails])
def test_the_rest_answers_while_one_does_not_and_that_one_is_left_alone_for_a_while(
    loop: asyncio.AbstractEventLoop, behave: Callable[[], Awaitable[None]]
) -> None:
    now_s = 0.0
    sick = Deployment(behave)
    deployments: list[AskDeployment] = [Deployment(answers), sick]
    calls = ShardCalls(deployments, loop, lambda: now_s)
    for _ in range(MISSES_UNTIL_LEFT_ALONE + 5):
        assert calls.ask("g", QUERIES, WAIT_S).keys() == {0, 2, 4}
    assert len(sick.asked) == MISSES_UNTIL_LEFT_ALONE
    now_s += LEFT_ALONE_S
    for _ in range(5):  # one tries for all
        assert calls.ask("g", QUERIES, WAIT_S).keys() == {0, 2, 4}
    assert len(sick.asked) == MISSES_UNTIL_LEFT_ALONE + 1
    sick.behave = answers
    now_s += LEFT_ALONE_S
    for _ in range(3):
        assert calls.ask("g", QUERIES, 5).keys() == QUERIES.keys()
