"""Promise 9 on a real stack, shards in deployments of their own: something is gone, slow or too
much. The drills `shard-gone`, `encoder-gone` and `overload` in short, slow senders and readers."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from infra.drills import encoder_gone, overload, shard_gone
from infra.drills.figures import Options
from infra.drills.sick_app import APP
from infra.drills.stack import DrillStack, drill_stack
from infra.stack.haproxy import REPLICA_REQUESTS
from infra.stack.ray_environment import READ_TIMEOUT_S

ITEMS = 300
USERS = 200
DEPLOYMENTS = 2
FAULT_S = 3.0
BODY_TIMEOUT_S = 2.0
BUFFER_BYTES = 65_536
"""What HAProxy holds of a body before a replica hears of it."""


@pytest.fixture(scope="module")
def stack() -> Iterator[DrillStack]:
    """Two replicas, four shards in two deployments."""
    settings = {
        **shard_gone.environment(DEPLOYMENTS),
        **encoder_gone.ENVIRONMENT,
        "MOONLARK_WATCH_INTERVAL_S": "0.1",
        "MOONLARK_BODY_TIMEOUT_S": str(BODY_TIMEOUT_S),
    }
    with drill_stack(items=ITEMS, users=USERS, seed=5, env=settings, app=APP, shards=4) as made:
        yield made


@pytest.mark.timeout(1_200)
def test_lists_without_a_shard_are_marked_and_right_of_the_rest(stack: DrillStack) -> None:
    options = Options(rounds=2, seed=5, progress=False)
    figures = shard_gone.run_on(
        stack, options, items=ITEMS, deployments=DEPLOYMENTS, fault_s=FAULT_S
    )
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.acked > 20
    assert figures.more["answers"] > figures.more["answers_shard_gone"] > 10


@pytest.mark.timeout(1_200)
def test_without_the_encoder_lists_go_on_and_texts_count_in_the_end(stack: DrillStack) -> None:
    options = Options(rounds=2, seed=6, progress=False)
    figures = encoder_gone.run_on(stack, options, items=ITEMS, fault_s=FAULT_S)
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.parity_max_abs_diff is not None
    assert figures.parity_max_abs_diff < 1e-5


@pytest.mark.timeout(1_200)
def test_three_times_the_capacity_is_refused_with_a_time_to_come_back(stack: DrillStack) -> None:
    figures = overload.run_on(
        stack,
        Options(seed=7, progress=False),
        items=ITEMS,
        users=USERS,
        probe_s=1.0,
        overload_s=4.0,
        judge_goodput=False,
    )
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.more["refused_without_retry_after"] == 0


def slow_sender(stack: DrillStack, path: str, sent: bytes) -> socket.socket:
    """Says it has a million bytes, sends some, and then nothing."""
    url = urlsplit(stack.url)
    assert url.hostname
    assert url.port
    sender = socket.create_connection((url.hostname, url.port), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    sender.sendall(head.encode() + b"Content-Length: 1000000\r\n\r\n" + sent)
    return sender


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("sent", [b"{", b"[" + b" " * 2 * BUFFER_BYTES])
def test_slow_senders_are_cut_off_and_hold_up_nobody(stack: DrillStack, sent: bytes) -> None:
    started_s = time.monotonic()
    senders = [slow_sender(stack, "/v1/events", sent) for _ in range(20)]
    took_s = []
    with httpx.Client(base_url=stack.url, timeout=30) as http:
        for _ in range(20):
            asked_s = time.monotonic()
            assert http.get("/v1/users/idle1/recommendations").status_code == 200
            took_s.append(time.monotonic() - asked_s)
        too_large = http.post("/v1/events", content=b" " * 10_000_000)
        assert too_large.status_code == 413
    for sender in senders:
        with sender:
            assert sender.recv(4096).split()[1] == b"408"
    # All were there while the lists were answered; none waited for one of them to be cut off.
    assert float(np.median(took_s)) < BODY_TIMEOUT_S
    assert time.monotonic() - started_s < 60


def slow_reader(stack: DrillStack) -> socket.socket:
    """Asks for the largest answer there is, and reads nothing of it."""
    body = json.dumps({"users": [f"idle{n}" for n in range(10)], "k": 500, "exclude_seen": False})
    url = urlsplit(stack.url)
    assert url.hostname
    assert url.port
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    reader.settimeout(60)
    reader.connect((url.hostname, url.port))
    head = (
        "POST /v1/recommendations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    )
    reader.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return reader


@pytest.mark.timeout(1_200)
def test_slow_readers_hold_up_nobody_for_long(stack: DrillStack) -> None:
    places = 2 * REPLICA_REQUESTS
    with ExitStack() as readers, httpx.Client(base_url=stack.url, timeout=30) as http:
        for _ in range(places):
            readers.enter_context(slow_reader(stack))
        deadline_s = time.monotonic() + READ_TIMEOUT_S + 30  # and the work that they asked for
        answered = 0
        while answered < 10:  # running: everybody's places are free again
            assert time.monotonic() < deadline_s
            status = http.get("/v1/users/idle1/recommendations").status_code
            assert status in (200, 503)
            answered = answered + 1 if status == 200 else 0
