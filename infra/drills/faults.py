"""One fault for each alert whose runbook is tried (`infra.drills.runbooks`).

A fault makes the cause where it can be made on one machine; where it cannot (a night that trains
badly), it makes the trace that the cause leaves, by the shipped code that records it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Set
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx
import numpy as np
from sqlalchemy import update

from infra.drills.catalog import made_title
from infra.drills.locks import locked, locked_again_and_again
from infra.drills.night_faults import (
    ROTS,
    accuracy_dropped,
    after_publish,
    data_refused,
    erasure_open,
    generation_old,
    generation_refused,
    hold_set,
    live_rots,
    night_ends_with,
    night_stuck,
    parity_broken,
    recall_low,
    rolls_back,
)
from infra.drills.proxy_faults import proxy_gone, proxy_refuses
from infra.drills.sickness import Sickness
from infra.drills.stack import now_ms
from infra.drills.stopped_thread import StoppedThread, threads_named
from infra.drills.victims import gateways
from infra.drills.ward import ITEMS, SENDER, Ward, bearer
from infra.stack.postgres import connect
from ray_jobs.nightly.workspace import GateRefused, NightError
from ray_jobs.shards.manifest import shard_name
from sql.engine import write
from sql.keys import revoke_key
from sql.tables import catalog_log, events, item_activity

HOUR_MS = 3_600_000
WAITS_MS = 300_000
KEYS_KNOWN_S = 6.0
FULL_SHARE = 0.05
"""Left free of a disk that is almost full."""
REFUSED, TIMED_OUT = 7, 124
"""Exit statuses of curl and timeout."""
DELETE_APP = (
    "import ray; from ray import serve; ray.init(namespace='serve'); serve.delete('moonlark')"
)


@dataclass(frozen=True)
class Fault:
    """`inject`: returns what takes away what the runbook does not mend, such as a connection.

    `stand_ins`: commands that are done, not run, for want of the thing (a service manager).
    `hands_on`: what the on-call does with what a command printed.
    """

    inject: Callable[[Ward], Callable[[], None] | None]
    stand_ins: Mapping[str, Callable[[Ward], None]] = field(default_factory=dict)
    hands_on: Mapping[str, Callable[[Ward, str], None]] = field(default_factory=dict)
    named: str = ""
    """By the doctor, where it is by another runbook's name: that of the cause."""
    answers: Mapping[str, Set[int]] = field(default_factory=dict)
    """Exit statuses of commands of the diagnosis, where this fault makes them others."""


def _delta(ward: Ward) -> None:
    ward.clear_hold()
    rng = np.random.default_rng(0)
    items = [{"item_id": f"new{n}", "title": made_title(rng)} for n in range(ITEMS // 2)]
    url, asks = f"{ward.stack.url}/v1/items", bearer(ward.key)
    answer = httpx.put(url, json={"items": items}, headers=asks, timeout=60)
    assert answer.status_code == 200, answer.text


def _server_gone(ward: Ward) -> None:
    ward.server.kill()


def _app_gone(ward: Ward) -> None:
    environment = {**_shell(ward)}
    subprocess.run(
        [sys.executable, "-c", DELETE_APP], env=environment, check=True, capture_output=True
    )


def _shell(ward: Ward) -> dict[str, str]:
    done = ward.run(f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _serve_again(ward: Ward) -> None:
    ward.server.serve()
    connect(ward.stack.database_url).close()


def _hung(deployment: str) -> Callable[[Ward], Callable[[], None]]:
    """A replica that is there, looks healthy and answers nothing: Serve leaves it as it is."""

    def inject(ward: Ward) -> Callable[[], None]:
        sickness = Sickness(ward.stack.faults, deployment)
        sickness.hang()
        return sickness.heal

    return inject


def _changes_wait(ward: Ward) -> Callable[[], None]:
    """The thread that applies item changes hangs in each gateway replica, and nobody asks for
    lists, which would apply them. A change of some minutes ago waits."""
    with ExitStack() as undo:
        for pid in gateways(ward.stack):
            for thread_id in threads_named(pid, "generation-watch"):
                undo.callback(StoppedThread(thread_id).go_on)
        undo.callback(setattr, ward.murmur, "asks_for_lists", True)
        ward.murmur.asks_for_lists = False
        url, asks = f"{ward.stack.url}/v1/items/waits", bearer(ward.key)
        put = httpx.put(url, json={"title": "it waits"}, headers=asks, timeout=60)
        assert put.status_code == 200, put.text
        with write(ward.stack.engine) as conn:
            row = catalog_log.c.change_seq == put.json()["catalog_seq"]
            earlier = catalog_log.c.at_ms - WAITS_MS
            conn.execute(update(catalog_log).where(row).values(at_ms=earlier))
        return undo.pop_all().close


def _key_revoked(ward: Ward) -> None:
    """The sender's, some hours ago; replicas know it within 5 seconds."""
    revoke_key(ward.stack.engine, SENDER, at_ms=now_ms())
    time.sleep(KEYS_KNOWN_S)
    earlier = item_activity.c.hour - 3
    with write(ward.stack.engine) as conn:
        conn.execute(update(item_activity).values(hour=earlier))
        came_ms = events.c.received_at_ms - 3 * HOUR_MS
        conn.execute(update(events).values(received_at_ms=came_ms))


def _key_taken(ward: Ward, said: str) -> None:
    """The sender is given what was printed."""
    ward.murmur.key = said.strip()


def _disk_full_of_generations(ward: Ward) -> None:
    """Old generations fill the disk: one large file stands for many of them."""
    root = ward.stack.root
    if not os.path.ismount(root):
        raise OSError("the right to mount a disk of its own is missing here")
    oldest, *_ = [ward.make() for _ in range(3)]
    ward.publish(ward.make())
    free = shutil.disk_usage(root)
    ballast = free.free - int(FULL_SHARE * free.total)
    with (root / "generations" / oldest / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, ballast)


POSTGRES_UNIT = {
    "systemctl status postgresql": lambda ward: None,
    "systemctl restart postgresql": _serve_again,
}
MAY_WAIT_IN_VAIN: Mapping[str, Set[int]] = {"moonlark status": {0, 1}}
"""It counts the users, whose table nobody may read meanwhile; after 30 s it gives up."""
FAULTS: Mapping[str, Fault] = {
    "HoldSet": Fault(hold_set),
    "NightRolledBack": Fault(rolls_back),
    "LiveBroken": Fault(live_rots),
    "ParityBroken": Fault(parity_broken),
    "LiveGenerationRefused": Fault(generation_refused(ROTS)),
    "ReplicasBehind": Fault(generation_refused(shard_name(1)), named="LiveGenerationRefused"),
    "IndexRecallLow": Fault(recall_low),
    "AccuracyDropped": Fault(accuracy_dropped),
    "GenerationOld": Fault(generation_old),
    "NightFailed": Fault(night_ends_with(NightError("out of memory", hint=""))),
    "NightFailed-published": Fault(after_publish),
    "NightStuck": Fault(night_stuck),
    "GateRefused": Fault(night_ends_with(GateRefused("it is worse", hint=""))),
    "NightDataRefused": Fault(data_refused),
    "ErasureOpen": Fault(erasure_open),
    "DeltaLarge": Fault(_delta),
    "EventsNotStored": Fault(locked("users", "EXCLUSIVE")),
    "EventsSlow": Fault(locked_again_and_again("users", "EXCLUSIVE"), named="EventsNotStored"),
    "ListsSlow": Fault(
        locked_again_and_again("users", "ACCESS EXCLUSIVE"),
        named="EventsNotStored",
        answers=MAY_WAIT_IN_VAIN,
    ),
    "ErrorsHigh": Fault(
        locked("users", "ACCESS EXCLUSIVE"), named="EventsNotStored", answers=MAY_WAIT_IN_VAIN
    ),
    "ErrorsHigh-proxy": Fault(proxy_refuses, named="EventsNotStored"),
    "WriteBehindDropping": Fault(locked("exposures", "EXCLUSIVE")),
    "DatabaseGone": Fault(_server_gone, POSTGRES_UNIT, answers={"moonlark status": {1}}),
    "DiskAlmostFull": Fault(_disk_full_of_generations),
    "EventsStopped": Fault(_key_revoked, hands_on={"moonlark keys make": _key_taken}),
    "CatalogBehind": Fault(_changes_wait),
    "EncoderGone": Fault(_hung("encoder")),
    "ShardGone": Fault(_hung("shards1")),
    "NothingAnswers-proxy": Fault(
        proxy_gone, answers={"curl": {REFUSED}, "timeout 30 serve status": {TIMED_OUT}}
    ),
    "NothingAnswers": Fault(_app_gone),
}
"""In an order in which what one leaves behind does not stand in another's way. A name is a
runbook's, of its second fault with a word after a dash."""


def runbook_of(name: str) -> str:
    """The runbook, and alert, of one of these."""
    return name.partition("-")[0]
