"""Open-loop load: requests leave when they are due, whether or not those before were answered.

A closed loop slows down with the server and so never overloads it. The sender is a process of its
own and as cheap as it can be (uvloop, prepared bytes, callbacks): on a small machine it takes its
share of what the server would have.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import uvloop
from numpy.typing import NDArray

GIVE_UP_S = 2.0
"""A client that was not answered by then goes away."""

MAX_OPEN = 1_000
"""Connections; a request that finds all of them busy is not sent, and counted as given up."""

MAX_PER_S = 5_000
"""Requests of a closed loop: more than two replicas can answer."""

TICK_S = 0.004
"""What is due within it leaves together: a wake each 4 ms, not one a request."""
SWEEP_S = 0.05
EVENT_SHARE = 0.2
GAVE_UP = 0
HOST = "Host: 127.0.0.1\r\n"


@dataclass(frozen=True)
class Shots:
    """What became of each request (N), in the order of their ends: how long it took (s), its status
    (`GAVE_UP`: none), whether a refusal said when to come back, and what it was."""

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


Answered = Callable[[int, bytes, bytes], None]
"""Is told status, head (lower case) and body; `GAVE_UP` and nothing where there is no answer."""


class Connection(asyncio.Protocol):
    """HTTP/1.1, one request at a time; only status and length are looked at."""

    def __init__(self, idle: "deque[Connection]", closed: Callable[[], None]) -> None:
        self._idle, self._closed = idle, closed
        self._transport: asyncio.Transport | None = None
        self._answered: Answered | None = None
        self._buffer = bytearray()
        self.asked_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    @property
    def waits(self) -> bool:
        return self._answered is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._closed()
        self._tell(GAVE_UP, b"", b"")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._buffer[:head_end]).lower()
        _, found, rest = head.partition(b"\r\ncontent-length:")
        length = int(rest.split(b"\r\n", 1)[0]) if found else 0
        if len(self._buffer) >= head_end + 4 + length:
            body = bytes(self._buffer[head_end + 4 : head_end + 4 + length])
            del self._buffer[: head_end + 4 + length]
            self._idle.append(self)
            self._tell(int(head[9:12]), head, body)

    def ask(self, request: bytes, answered: Answered) -> None:
        """Sent now; `answered` is told once."""
        self.asked_s, self._answered = time.perf_counter(), answered
        if self._transport is None:
            self._tell(GAVE_UP, b"", b"")
        else:
            self._transport.write(request)

    def give_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _tell(self, status: int, head: bytes, body: bytes) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(status, head, body)


class Connections:
    """Kept open, as many as are needed. Neither a task nor a timer a request: on two cores they
    would be the server's."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[Connection] = deque()
        self._connections: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._open = 0

    def send(self, request: bytes, answered: Answered) -> None:
        """Now, on an idle connection or a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                connection.ask(request, answered)
                return
        if self._open >= MAX_OPEN:
            answered(GAVE_UP, b"", b"")
            return
        self._open += 1
        task = asyncio.get_running_loop().create_task(self._connect(request, answered))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, request: bytes, answered: Answered) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(GIVE_UP_S):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._idle, self._is_closed), "127.0.0.1", self._port
                )
        except (OSError, TimeoutError):
            self._is_closed()
            answered(GAVE_UP, b"", b"")
            return
        self._connections.add(connection)
        connection.ask(request, answered)

    def _is_closed(self) -> None:
        self._open -= 1

    def sweep(self) -> None:
        """Whoever waited too long goes away."""
        before_s = time.perf_counter() - GIVE_UP_S
        self._connections = {one for one in self._connections if one.is_open}
        for connection in self._connections:
            if connection.waits and connection.asked_s < before_s:
                connection.give_up()


class _Sender(Connections):
    """Lists and events of made users."""

    def __init__(self, port: int, users: int, items: int, seed: int) -> None:
        super().__init__(port)
        self._rng = np.random.default_rng(seed)
        self._users, self._items = users, items
        self._name = f"load{seed}-{time.time_ns()}"
        self._sent = 0
        self.shots: list[_Shot] = []

    def requests(self, count: int) -> list[bytes]:
        """Lists of somebody, and events of somebody else."""
        users = self._rng.integers(self._users, size=count).tolist()
        items = self._rng.integers(self._items, size=count).tolist()
        is_event = (self._rng.random(count) < EVENT_SHARE).tolist()
        drawn = zip(users, items, is_event, strict=True)
        return [self._event(user, item) if event else _list(user) for user, item, event in drawn]

    def _event(self, user: int, item: int) -> bytes:
        self._sent += 1
        body = (
            f'{{"user_id":"load{user}","kind":"view","item_id":"i{item}",'
            f'"event_id":"{self._name}-{self._sent}"}}'
        ).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return f"POST /v1/events HTTP/1.1\r\n{HOST}{head}".encode() + body

    def shoot(self, request: bytes, then: Callable[[], None] = lambda: None) -> None:
        """Sent now; `then` is called when it is over."""
        is_event = request.startswith(b"POST")
        started_s = time.perf_counter()

        def answered(status: int, head: bytes, _: bytes) -> None:
            told_when = b"\r\nretry-after:" in head
            self.shots.append((time.perf_counter() - started_s, status, told_when, is_event))
            then()

        self.send(request, answered)

    async def open_loop(self, rate: float, seconds: float) -> Shots:
        due_s = np.cumsum(self._rng.exponential(1 / rate, int(rate * seconds)))
        due, requests = due_s.tolist(), self.requests(len(due_s))  # made before the clock runs
        started_s, began_cpu_s = time.perf_counter(), time.process_time()
        sent, swept_s = 0, started_s
        while len(self.shots) < len(due):
            now_s = time.perf_counter()
            while sent < len(due) and due[sent] <= now_s - started_s:
                self.shoot(requests[sent])
                sent += 1
            if now_s - swept_s > SWEEP_S:
                self.sweep()
                swept_s = now_s
            await asyncio.sleep(TICK_S)
        return _gathered(self.shots, began_cpu_s)

    async def closed_loop(self, clients: int, seconds: float) -> Shots:
        requests = iter(self.requests(int(MAX_PER_S * seconds)))
        started_s, began_cpu_s = time.perf_counter(), time.process_time()
        waiting = clients

        def go_on() -> None:
            nonlocal waiting
            request = next(requests, None)
            if request is None or time.perf_counter() - started_s >= seconds:
                waiting -= 1
            else:
                self.shoot(request, go_on)

        for request in [next(requests) for _ in range(clients)]:
            self.shoot(request, go_on)
        while waiting:
            await asyncio.sleep(SWEEP_S)
            self.sweep()
        return _gathered(self.shots, began_cpu_s)


def _list(user: int) -> bytes:
    path = f"/v1/users/idle{user}/recommendations?k=20"
    return f"GET {path} HTTP/1.1\r\n{HOST}\r\n".encode()


def _gathered(shots: list[_Shot], began_cpu_s: float) -> Shots:
    cpu_s = time.process_time() - began_cpu_s
    took, status, told, is_event = map(np.array, zip(*shots, strict=True))
    return Shots(took, status, told, is_event, cpu_s)


def open_loop(
    port: int, rate: float, seconds: float, *, users: int, items: int, seed: int
) -> Shots:
    """`rate` requests a second for so long, at random times (Poisson)."""
    return uvloop.run(_Sender(port, users, items, seed).open_loop(rate, seconds))


def closed_loop(
    port: int, clients: int, seconds: float, *, users: int, items: int, seed: int
) -> Shots:
    """So many clients, each asks again when it is answered."""
    return uvloop.run(_Sender(port, users, items, seed).closed_loop(clients, seconds))
