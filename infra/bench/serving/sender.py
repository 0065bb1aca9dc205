"""The sender of the bench: visits over HTTP, in a closed or an open loop, from its own process.

A visit is one request, or a few of which each is sent when the one before it was answered: a click,
and then the list that must reflect it. How long it took is counted from when it was *due*: in an
open loop a late start is the server's fault as much as a late answer. The connections are those of
`infra.drills.load`. N visits, P requests of each.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
import uvloop
from numpy.typing import NDArray

from infra.drills.load import SWEEP_S, Connections


@dataclass(frozen=True, slots=True)
class Visit:
    """`requests`, in order; where they end with a list, `clicked` is the item of the event before
    it, which the list must not hold, and `listed` how many it must."""

    requests: tuple[bytes, ...]
    clicked: str = ""
    listed: int = 0


@dataclass(frozen=True)
class Sent:
    """What became of the visits. `ends_s_NP`: of those that ended whole, from when each was due to
    the end of each of its requests. `wrong`: what else came, and how often; all of it is `failed`.
    A visit that failed took forever: quantiles are over all that were sent."""

    ends_s_NP: NDArray[np.float64]
    wrong: dict[str, int]
    wall_s: float
    cpu_s: float
    """Processor time of the sender."""

    @property
    def failed(self) -> int:
        """Visits that were refused, not answered, or answered wrongly."""
        return sum(self.wrong.values())

    @property
    def sent(self) -> int:
        """Visits."""
        return len(self.ends_s_NP) + self.failed

    @property
    def per_s(self) -> float:
        """Visits a second, of those that ended whole."""
        return len(self.ends_s_NP) / self.wall_s

    def part_ms(self, part: int, quantile: float) -> float:
        """A quantile (0 to 1) of what one of the requests took, ms; infinite where the visits that
        failed are more than the rest of it."""
        starts_N = self.ends_s_NP[:, part - 1] if part else 0.0
        return self._quantile_ms(self.ends_s_NP[:, part] - starts_N, quantile)

    def whole_ms(self, quantile: float) -> float:
        """The same of whole visits."""
        return self._quantile_ms(self.ends_s_NP[:, -1], quantile)

    def _quantile_ms(self, took_s_N: NDArray[np.float64], quantile: float) -> float:
        took_s = np.append(took_s_N, np.full(self.failed, np.inf))
        return float(np.quantile(took_s, quantile, method="higher") * 1000)


def pooled(rounds: Sequence[Sent]) -> Sent:
    """The visits of all rounds as one loop."""
    wrong: Counter[str] = Counter()
    for sent in rounds:
        wrong.update(sent.wrong)
    return Sent(
        np.concatenate([sent.ends_s_NP for sent in rounds]),
        dict(wrong.most_common()),
        sum(sent.wall_s for sent in rounds),
        sum(sent.cpu_s for sent in rounds),
    )


@dataclass
class _Round:
    """A loop that runs."""

    connections: Connections
    ends: list[list[float]] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    under_way: int = 0

    def begin(self, visit: Visit, due_s: float, free: asyncio.Event | None) -> None:
        """Send its first request now; `free` is set when it is over."""
        self.under_way += 1
        bodies: list[bytes] = []
        ends: list[float] = []

        def over() -> None:
            self.under_way -= 1
            if free is not None:
                free.set()

        def answered(status: int, _: bytes, body: bytes) -> None:
            ends.append(time.perf_counter() - due_s)
            bodies.append(body)
            if status != 200:
                self.wrong[f"{status} {body[:200]!r}"] += 1
                over()
            elif len(bodies) < len(visit.requests):
                self.connections.send(visit.requests[len(bodies)], answered)
            else:
                why = _what_is_wrong(bodies, visit) if visit.listed else None
                if why is None:
                    self.ends.append(ends)
                else:
                    self.wrong[why] += 1
                over()

        self.connections.send(visit.requests[0], answered)

    def gathered(self, parts: int, started_s: float, cpu_s: float) -> Sent:
        ended_s = time.perf_counter()
        return Sent(
            np.array(self.ends, np.float64).reshape(len(self.ends), parts),
            dict(self.wrong.most_common()),
            ended_s - started_s,
            time.process_time() - cpu_s,
        )


def _what_is_wrong(bodies: Sequence[bytes], visit: Visit) -> str | None:
    """Of a list, and of the acknowledged event before it where it was sent, too."""
    answer = orjson.loads(bodies[-1])
    if len(bodies) > 1:
        event = orjson.loads(bodies[0])["events"][0]
        if answer["user_seq"] < event["user_seq"]:
            return "a list older than the event that was acknowledged before it"
    if len(answer["items"]) != visit.listed:
        return f"a list of {len(answer['items'])} items instead of {visit.listed}"
    if any(item["item_id"] == visit.clicked for item in answer["items"]):
        return "a list with the item that was clicked before it"
    return "an answer that says it is degraded" if answer["degraded"] else None


async def _closed(port: int, visits: Sequence[Visit], clients: int, seconds: float) -> Sent:
    """So many clients, each begins a visit when its last is over; until time or visits end."""
    running = _Round(Connections(port))
    waiting: Iterator[Visit] = iter(visits)
    started_s, cpu_s = time.perf_counter(), time.process_time()

    async def client() -> None:
        over = asyncio.Event()
        while (now_s := time.perf_counter()) - started_s < seconds:
            visit = next(waiting, None)
            if visit is None:
                return
            over.clear()
            running.begin(visit, now_s, over)
            await over.wait()

    sweeper = asyncio.create_task(_sweep(running.connections))
    await asyncio.gather(*(client() for _ in range(clients)))
    sweeper.cancel()
    return running.gathered(len(visits[0].requests), started_s, cpu_s)


async def _open(port: int, visits: Sequence[Visit], rate: float, seed: int) -> Sent:
    """Visits begin at random times (Poisson), `rate` a second, whatever became of those before."""
    running = _Round(Connections(port))
    due_N = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, len(visits))).tolist()
    sweeper = asyncio.create_task(_sweep(running.connections))
    started_s, cpu_s = time.perf_counter(), time.process_time()
    for visit, due_s in zip(visits, due_N, strict=True):
        while (early_s := started_s + due_s - time.perf_counter()) > 0:
            await asyncio.sleep(early_s)
        running.begin(visit, started_s + due_s, None)
        await asyncio.sleep(0)  # what is sent in one go would keep the answers waiting
    while running.under_way:
        await asyncio.sleep(SWEEP_S)
    sweeper.cancel()
    return running.gathered(len(visits[0].requests), started_s, cpu_s)


async def _sweep(connections: Connections) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        connections.sweep()


def closed_loop(port: int, visits: Sequence[Visit], clients: int, seconds: float) -> Sent:
    """See `_closed`. All visits have the same number of requests."""
    return uvloop.run(_closed(port, visits, clients, seconds))


def open_loop(port: int, visits: Sequence[Visit], rate: float, seed: int) -> Sent:
    """See `_open`."""
    return uvloop.run(_open(port, visits, rate, seed))
