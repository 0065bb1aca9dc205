"""Faults of what stands before the replicas, of which the replicas know nothing."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable

import httpx
import psutil

from infra.drills.locks import locked_again_and_again
from infra.drills.victims import controllers, kill, proxies
from infra.drills.ward import Ward, bearer

CLIENTS = 96
MOST_PAUSE_S = 3.0
"""While lists wait for `DREAM_S`, some fifty would be open; two replicas have places for 32. When
nothing is wrong they ask 64 times a second at most, not all at once, and are answered."""


def proxy_gone(ward: Ward) -> Callable[[], None]:
    """HAProxy is killed with -9, and Serve's controller, who would start another, is frozen."""
    hung = controllers(ward.stack)
    for process in hung:
        process.suspend()
    for process in proxies(ward.stack):
        kill(process)

    def goes_on() -> None:
        for process in hung:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    return goes_on


def proxy_refuses(ward: Ward) -> Callable[[], None]:
    """Lists wait for a lock that a session takes again and again. They are slow, none fails; but
    they fill the replicas, and HAProxy refuses what comes then."""
    lets_go = locked_again_and_again("users", "ACCESS EXCLUSIVE")(ward)
    crowd = Crowd(ward.stack.url, ward.key)
    crowd.start()

    def ends() -> None:
        crowd.end()
        lets_go()

    return ends


class Crowd(threading.Thread):
    """Clients that ask for lists, each for its next some time after the last, until `end`."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(name="crowd", daemon=True)
        self._url, self._key = url, key
        self._ending = threading.Event()

    def run(self) -> None:
        """All of them."""
        asyncio.run(self._all())

    def end(self) -> None:
        """And wait for them."""
        self._ending.set()
        self.join(30)

    async def _all(self) -> None:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(
            base_url=self._url, headers=bearer(self._key), timeout=15, limits=limits
        ) as http:
            await asyncio.gather(*(self._one(http, n) for n in range(CLIENTS)))

    async def _one(self, http: httpx.AsyncClient, n: int) -> None:
        rng = random.Random(n)
        while not self._ending.is_set():
            with contextlib.suppress(httpx.HTTPError):
                await http.get(f"/v1/users/idle{n}/recommendations")
            await asyncio.sleep(rng.uniform(0, MOST_PAUSE_S))
