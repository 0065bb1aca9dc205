"""Free loopback ports, taken as one run, so that two stacks on a machine do not collide.

The range lies above Ray's worker ports (10000 to 19999) and below Linux's ephemeral ports (32768
on), so that neither a worker nor an outgoing connection takes a port between our look and the bind.
"""

import random
import socket

from infra.stack.errors import NoFreePorts

LOOPBACK = "127.0.0.1"
FIRST_PORT = 20_000
LAST_PORT = 32_000
MAX_TRIES = 200


def is_free(port: int, host: str = "") -> bool:
    """Whether `port` can be bound now; the default host is all interfaces, as Ray's probes use."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def find_free_run(length: int, rng: random.Random | None = None) -> int:
    """First port of a run of `length` free ports.

    Raises:
        NoFreePorts: after MAX_TRIES runs with a taken port in each.
    """
    rng = rng or random.Random()
    for _ in range(MAX_TRIES):
        base = rng.randrange(FIRST_PORT, LAST_PORT - length)
        if all(is_free(port) for port in range(base, base + length)):
            return base
    raise NoFreePorts(
        f"no {length} free ports in a row between {FIRST_PORT} and {LAST_PORT}",
        hint="ss -ltnp shows who listens; stop what is not needed",
    )


def accepts(port: int, timeout_s: float = 0.5, host: str = LOOPBACK) -> bool:
    """Whether something accepts TCP connections on `port`."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False
