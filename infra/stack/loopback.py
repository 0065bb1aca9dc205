"""Keep a Serve replica's own gRPC server on the loopback; Ray runs this in every worker.

Serve 2.60 binds the server through which replicas call each other to `[::]:0`, all interfaces,
and has no setting for it (serve/_private/replica.py, `_on_initialized`). The token guards it,
but on one machine nobody else needs to reach it. `tests/integration/test_local_stack.py` looks
at every listener, so a Ray that moves this function is noticed.
"""

from collections.abc import Callable
from typing import Any

from ray._common import tls_utils

ALL_INTERFACES = "[::]:"

_add_port: Callable[[Any, str], Any] = tls_utils.add_port_to_grpc_server


def _add_loopback_port(server: Any, address: str) -> Any:
    if address.startswith(ALL_INTERFACES):
        address = f"127.0.0.1:{address.removeprefix(ALL_INTERFACES)}"
    return _add_port(server, address)


def bind_grpc_to_loopback() -> None:
    """Runs before the worker imports Serve, which then takes the function from the module."""
    tls_utils.add_port_to_grpc_server = _add_loopback_port
