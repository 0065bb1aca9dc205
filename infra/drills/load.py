"""Open-loop load: requests leave when they are due, whether or not those before were answered.

A closed loop slows down with the server and so never overloads it. The sender is a process of its
own and as cheap as it can be (raw asyncio, prepared bytes, 0.1 ms a request): on a small machine it
takes its share of what the server would have.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GIVE_UP_S = 2.0
"""A client that was not answered by then goes away."""

MAX_OPEN = 1_000
"""Connections; a request that finds all of them busy is not sent, and counted as given up."""

EVENT_SHARE = 0.2
GAVE_UP = 0


@dataclass(frozen=True)
class Shots:
    """What became of each request (N): when it was due (s after the first), how long it took (s),
    its status (`GAVE_UP`: none), whether a refusal said when to come back, and what it was."""

    due_s: NDArray[np.float64]
    took_s: NDArray[np.float64]
    status: NDArray[np.int64]
    told_when: NDArray[np.bool_]
    is_event: NDArray[np.bool_]
    cpu_s: float
    """Processor time of the sender."""

    def good(self, within_s: float) -> NDArray[np.bool_]:
        """Answered with 200, in time."""
        answered: NDArray[np.bool_] = self.status == 200
        return answered & (self.took_s <= within_s)

    @property
    def acked_events(self) -> int:
        """Events that were acknowledged, late or not; each has an id of its own."""
        return int(np.count_nonzero(self.is_event & (self.status == 200)))


_Shot = tuple[float, int, bool, bool]
"""Took (s), status, told when, is an event."""


class _Connection(asyncio.Protocol):
    """HTTP/1.1, one request at a time; only status, length and Retry-After are looked at."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[tuple[int, bool]] | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._tell((GAVE_UP, False))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._buffer[:head_end]).lower()
        _, found, rest = head.partition(b"\r\ncontent-length:")
        length = int(rest.split(b"\r\n", 1)[0]) if found else 0
        if len(self._buffer) >= head_end + 4 + length:
            del self._buffer[: head_end + 4 + length]
            self._tell((int(head[9:12]), b"\r\nretry-after:" in head))

    def _tell(self, what: tuple[int, bool]) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(what)

    async def ask(self, request: bytes, give_up_s: float) -> tuple[int, bool]:
        if self.transport is None:
            return GAVE_UP, False
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        timer = asyncio.get_running_loop().call_later(give_up_s, self._give_up)
        try:
            return await self._answered
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Sender:
    def __init__(self, port: int, users: int, items: int, seed: int) -> None:
        self._port, self._users, self._items = port, users, items
        self._rng = np.random.default_rng(seed)
        self._name = f"load{seed}-{time.time_ns()}"
        self._idle: deque[_Connection] = deque()
        self._open = self._sent = 0

    def request(self) -> bytes:
        """A list of somebody, or an event of somebody else."""
        self._sent += 1
        user = self._rng.integers(self._users)
        if self._rng.random() >= EVENT_SHARE:
            path = f"/v1/users/idle{user}/recommendations?k=20"
            return f"GET {path} HTTP/1.1\r\nHost: load\r\n\r\n".encode()
        item = self._rng.integers(self._items)
        body = (
            f'{{"user_id":"load{user}","kind":"view","item_id":"i{item}",'
            f'"event_id":"{self._name}-{self._sent}"}}'
        ).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return f"POST /v1/events HTTP/1.1\r\nHost: load\r\n{head}".encode() + body

    async def shoot(self, request: bytes) -> _Shot:
        """Sent now, on an idle connection or a new one."""
        is_event = request.startswith(b"POST")
        started_s = time.perf_counter()
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None:
                break
        else:
            if self._open >= MAX_OPEN:
                return 0.0, GAVE_UP, False, is_event
            loop = asyncio.get_running_loop()
            self._open += 1
            try:
                _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
            except OSError:
                self._open -= 1
                return time.perf_counter() - started_s, GAVE_UP, False, is_event
        status, told_when = await connection.ask(request, GIVE_UP_S)
        if connection.transport is None:
            self._open -= 1
        else:
            self._idle.append(connection)
        return time.perf_counter() - started_s, status, told_when, is_event

    async def open_loop(self, rate: float, seconds: float) -> Shots:
        due_s = np.cumsum(self._rng.exponential(1 / rate, int(rate * seconds)))
        started_s, began_cpu_s = time.perf_counter(), time.process_time()
        shots: list[asyncio.Task[_Shot]] = []
        for due in due_s.tolist():
            wait_s = started_s + due - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            shots.append(asyncio.create_task(self.shoot(self.request())))
        return _gathered(due_s, await asyncio.gather(*shots), began_cpu_s)

    async def closed_loop(self, clients: int, seconds: float) -> Shots:
        started_s, began_cpu_s = time.perf_counter(), time.process_time()
        due: list[float] = []
        shots: list[_Shot] = []

        async def client() -> None:
            while (at_s := time.perf_counter() - started_s) < seconds:
                due.append(at_s)
                shots.append(await self.shoot(self.request()))

        await asyncio.gather(*(client() for _ in range(clients)))
        return _gathered(np.array(due), shots, began_cpu_s)


def _gathered(due_s: NDArray[np.float64], shots: list[_Shot], began_cpu_s: float) -> Shots:
    cpu_s = time.process_time() - began_cpu_s
    took, status, told, is_event = map(np.array, zip(*shots, strict=True))
    return Shots(due_s, took, status, told, is_event, cpu_s)


def open_loop(
    port: int, rate: float, seconds: float, *, users: int, items: int, seed: int
) -> Shots:
    """`rate` requests a second for so long, at random times (Poisson)."""
    return asyncio.run(_Sender(port, users, items, seed).open_loop(rate, seconds))


def closed_loop(
    port: int, clients: int, seconds: float, *, users: int, items: int, seed: int
) -> Shots:
    """So many clients, each asks again when it is answered."""
    return asyncio.run(_Sender(port, users, items, seed).closed_loop(clients, seconds))
