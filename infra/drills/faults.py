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
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

import httpx
import numpy as np
from sqlalchemy import update

from infra.drills.catalog import made_title
from infra.drills.locks import locked, locked_again_and_again
from infra.drills.proxy_faults import proxy_gone, proxy_refuses
from infra.drills.sickness import Sickness
from infra.drills.small_night import Words
from infra.drills.stack import now_ms
from infra.drills.stopped_thread import StoppedThread, threads_named
from infra.drills.victims import gateways, wait_for
from infra.drills.ward import ITEMS, SENDER, Ward, bearer
from infra.stack.postgres import connect
from ray_jobs.nightly.check import check
from ray_jobs.nightly.export import export
from ray_jobs.nightly.rollback import rollback
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.verify import verify
from ray_jobs.nightly.verify_live import LiveBroken, verify_live
from ray_jobs.nightly.workspace import (
    DataRefused,
    GateRefused,
    NightError,
    VerifyFailed,
    Workspace,
)
from ray_jobs.shards.manifest import shard_name
from sql import generations
from sql.engine import write
from sql.keys import revoke_key
from sql.settings import StoreSettings
from sql.tables import catalog_log, events, item_activity
from sql.tables import generations as generations_table

HOUR_MS = 3_600_000
WAITS_MS = 300_000
KEYS_KNOWN_S = 6.0
SILENT_HOURS = 9
ROTS = "weights.safetensors"
FULL_SHARE = 0.05
"""Left free of a disk that is almost full."""
SEEN_S = 60.0
REFUSED, TIMED_OUT = 7, 124
"""Exit statuses of curl and timeout."""
BEGINS_S = 240.0
"""Until a night that was begun has done its first step."""
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


def _published(ward: Ward, **figures: float) -> None:
    name = ward.make()
    ward.publish(name)
    generations.add_metrics(ward.stack.engine, name, figures)


def _parity(ward: Ward) -> None:
    _published(ward, parity_max_abs_diff=1e-2, canary_min_cosine=1.0)


def _recall(ward: Ward) -> None:
    _published(ward, index_recall=0.8)


def _accuracy(ward: Ward) -> None:
    generations.add_metrics(ward.stack.engine, ward.live, {"ndcg@10": 0.2})
    query = "ray_moonlark_live_generation_ndcg == 0.2"
    wait_for("the figure before", lambda: bool(ward.prometheus.values(query)), SEEN_S)
    _published(ward, **{"ndcg@10": 0.05})


def _hold(ward: Ward) -> None:
    ward.publish(ward.make())
    rollback(ward.stack.engine, None, who="drill", why="to try the runbook")


def _refused(file: str) -> Callable[[Ward], None]:
    """A byte of a file flips before any replica has it, and the pointer names its generation."""

    def inject(ward: Ward) -> None:
        ward.clear_hold()
        name, engine = ward.make(), ward.stack.engine
        path = ward.stack.root / "generations" / name / file
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        generations.stage(engine, name)
        with engine.connect() as conn:
            live = generations.read_live(conn)
        assert live is not None, "a stack begins with one"
        generations.flip(
            engine,
            name,
            expected_flip=live.flip,
            who="drill",
            why="damaged",
            hold=False,
            at_ms=now_ms(),
        )

    return inject


@contextmanager
def _found(kind: type[NightError]) -> Iterator[None]:
    """Whoever looks in the block finds the file that rotted, and nothing else."""
    found = "nothing"
    try:
        yield
    except kind as error:
        found = str(error)
    assert ROTS in found, f"{ROTS} rotted, and found was {found}"


def _flip_a_bit(ward: Ward, generation_id: str) -> Night:
    """Of the weights, which replicas hold in memory; the night of that generation."""
    path = ward.stack.root / "generations" / generation_id / ROTS
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return night_of(ward, generation_id)


def night_of(ward: Ward, generation_id: str) -> Night:
    """As a job on this stack opens it."""
    stack = ward.stack
    store = StoreSettings(database_url=stack.database_url, artifact_root=stack.root)
    workspace = Workspace(stack.root, generation_id, None)
    return Night(stack.engine, store, NightSettings(), workspace, now_ms)


def _rots(ward: Ward) -> None:
    ward.publish(ward.make())
    night = _flip_a_bit(ward, ward.live)
    with _found(LiveBroken):
        verify_live(night, Words())


def _rolls_back(ward: Ward) -> None:
    ward.publish(ward.make())
    ward.publish(ward.make())
    night = _flip_a_bit(ward, ward.live)
    with _found(VerifyFailed):
        verify(night)


def _old(ward: Ward) -> None:
    ward.clear_hold()
    with write(ward.stack.engine) as conn:
        at_ms = generations.database_now_ms(conn) - 40 * HOUR_MS
        row = generations_table.c.generation_id == ward.live
        conn.execute(update(generations_table).where(row).values(created_at_ms=at_ms))


def _night_ends_with(error: NightError) -> Callable[[Ward], None]:
    """Its export is done, the step after it ends so."""

    def inject(ward: Ward) -> None:
        ward.clear_hold()
        ward.failed = f"n{next(ward.numbers)}"
        night = night_of(ward, ward.failed)
        run_step(night, "export", export)

        def step(_: Night) -> Report:
            raise error

        with suppress(NightError):
            run_step(night, "check", step)

    return inject


def _data_refused(ward: Ward) -> None:
    """The check itself refuses, told that no item may have an event."""
    ward.clear_hold()
    ward.failed = f"n{next(ward.numbers)}"
    night = night_of(ward, ward.failed)
    run_step(night, "export", export)
    settings = night.settings.model_copy(update={"check_min_events": 1, "check_max_item_share": 0})
    with suppress(DataRefused):
        run_step(replace(night, settings=settings), "check", check)


def _stuck(ward: Ward) -> None:
    """A night was killed with -9 hours ago, and nothing was left that could say so."""
    ward.clear_hold()
    ward.failed = f"n{next(ward.numbers)}"
    workspace = night_of(ward, ward.failed).workspace
    with ward.started(f"moonlark night --generation {ward.failed}"):
        wait_for("the night begins", lambda: workspace.report("export") is not None, BEGINS_S)
    earlier_ms = now_ms() - SILENT_HOURS * HOUR_MS
    generations.report_step(ward.stack.engine, ward.failed, earlier_ms)


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
FAULTS: Mapping[str, Fault] = {
    "HoldSet": Fault(_hold),
    "NightRolledBack": Fault(_rolls_back),
    "LiveBroken": Fault(_rots),
    "ParityBroken": Fault(_parity),
    "LiveGenerationRefused": Fault(_refused(ROTS)),
    "ReplicasBehind": Fault(_refused(shard_name(1)), named="LiveGenerationRefused"),
    "IndexRecallLow": Fault(_recall),
    "AccuracyDropped": Fault(_accuracy),
    "GenerationOld": Fault(_old),
    "NightFailed": Fault(_night_ends_with(NightError("out of memory", hint=""))),
    "NightStuck": Fault(_stuck),
    "GateRefused": Fault(_night_ends_with(GateRefused("it is worse", hint=""))),
    "NightDataRefused": Fault(_data_refused),
    "DeltaLarge": Fault(_delta),
    "EventsNotStored": Fault(locked("users", "EXCLUSIVE")),
    "EventsSlow": Fault(locked_again_and_again("users", "EXCLUSIVE"), named="EventsNotStored"),
    "ListsSlow": Fault(
        locked_again_and_again("users", "ACCESS EXCLUSIVE"), named="EventsNotStored"
    ),
    "ErrorsHigh": Fault(locked("users", "ACCESS EXCLUSIVE"), named="EventsNotStored"),
    "ErrorsHigh-proxy": Fault(proxy_refuses, named="EventsNotStored"),
    "WriteBehindDropping": Fault(locked("exposures", "EXCLUSIVE")),
    "DatabaseGone": Fault(_server_gone, POSTGRES_UNIT),
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
