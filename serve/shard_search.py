"""Search over shards that Serve deployments of their own hold: the gateway's side.

A search runs in a thread of the replica; the calls to the deployments are made on its loop, to all
of them at once, and waited for no longer than the answer says. A deployment that kept several
answers waiting is left alone for a while (`patience`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from ray_jobs.encoders.weights import load_weights
from ray_jobs.ranking.priors import Priors
from ray_jobs.shards.distant import AskShards, DistantShards, Reply, ShardQuery
from ray_jobs.shards.items import read_items
from ray_jobs.shards.manifest import shard_name, verify
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.texts import TextVectors
from serve.loaded_generation import LoadedGeneration, open_sealed
from serve.patience import Patience

log = logging.getLogger(__name__)

AskDeployment = Callable[[str, Mapping[int, ShardQuery]], Awaitable[Mapping[int, Reply]]]
"""(generation id, shard number -> query) -> replies of the shards that this one holds."""

HAND_OVER_S = 1.0
"""Beyond the wait itself: until the loop gives the replies back. It only bounds a stopped loop."""


class ShardCalls:
    """Asks the deployments; shard s is in the one numbered s % len(deployments).

    `ask` is for threads, never for `loop` itself; its state is only touched on `loop`.
    """

    def __init__(
        self,
        deployments: Sequence[AskDeployment],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deployments = deployments
        self._patience = [Patience(clock) for _ in deployments]
        self._loop = loop

    def ask(
        self, generation_id: str, queries: Mapping[int, ShardQuery], wait_s: float
    ) -> Mapping[int, Reply]:
        """Replies by shard number, of those that answered within `wait_s`."""
        asked = asyncio.run_coroutine_threadsafe(
            self._ask_all(generation_id, queries, wait_s), self._loop
        )
        try:
            return asked.result(wait_s + HAND_OVER_S)
        except TimeoutError:  # the replica is stopping
            return {}

    async def _ask_all(
        self, generation_id: str, queries: Mapping[int, ShardQuery], wait_s: float
    ) -> dict[int, Reply]:
        by_deployment: dict[int, dict[int, ShardQuery]] = {}
        for number, query in queries.items():
            by_deployment.setdefault(number % len(self._deployments), {})[number] = query
        calls = {
            asyncio.ensure_future(self._deployments[index](generation_id, part)): index
            for index, part in by_deployment.items()
            if self._patience[index].is_asked()
        }
        replies: dict[int, Reply] = {}
        if not calls:
            return replies
        done, late = await asyncio.wait(calls, timeout=wait_s)
        for call in late:
            call.cancel()
            self._missed(calls[call], f"no answer in {wait_s:.3f} s")
        for call in done:
            error = call.exception()
            if error is not None:
                self._missed(calls[call], repr(error))
                continue
            self._patience[calls[call]].answered()
            replies.update(call.result())
        return replies

    def _missed(self, index: int, why: str) -> None:
        if self._patience[index].missed():
            log.warning("the shards of deployment %d do not answer: %s", index, why)


def open_with_distant_shards(
    ask: AskShards,
    timeout_s: float,
    artifact_root: Path,
    generation_id: str,
    sealed_digest: str | None,
) -> LoadedGeneration:
    """A generation without its shards: those are asked. Every digest but theirs is verified here.

    `timeout_s`: what one answer waits for shards. `sealed_digest`: see `open_sealed`.

    Raises:
        ray_jobs.shards.errors.ShardsError: a file is missing, altered or foreign.
        ray_jobs.encoders.errors.EncoderError: the weights are.
        ray_jobs.ranking.priors.PriorsError: activity, neighbours or their weights are.
    """
    directory, manifest = open_sealed(artifact_root, generation_id, sealed_digest)
    elsewhere = {shard_name(number) for number in range(manifest.shard_count)}
    verify(directory, manifest, names=manifest.files.keys() - elsewhere)
    items = read_items(directory)
    local = ShardSet.open(directory, manifest, numbers=())
    # The night gives every item of its catalog a vector: what it listed is what the shards hold.
    ordinals = items.blocks[0].ordinals
    return LoadedGeneration(
        manifest,
        load_weights(directory / "weights.safetensors"),
        DistantShards(generation_id, local, ordinals, ask, timeout_s),
        TextVectors.open(directory),
        items,
        Priors.open(directory, manifest.files),
    )
