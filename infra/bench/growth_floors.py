"""What does not follow from bytes: processes that hold next to nothing, and the CPU of a list.

A real stack (Ray, Serve, HAProxy, one gateway replica) with a catalog of 300 items; BERT in a
process of its own, for the stack has the drills' encoder.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
from tqdm import tqdm

from infra.bench.sizing import Floors
from infra.drills.stack import DrillStack, drill_stack
from infra.drills.victims import gateways, of_stack, proxies
from infra.stack import processes

ITEMS, USERS = 300, 50
WARM = 50

BERT = """
import json
import ray.serve
from infra.bench.held_memory import memory
from ray_jobs.encoders.item_bert import BertEncoder, resolve_model
encoder = BertEncoder(resolve_model(None))
encoder.encode([f"a text {n} as any other" for n in range(64)])
print(json.dumps(memory()))
"""


@dataclass(frozen=True)
class Pss:
    """Bytes of a process: its own, and its share of files."""

    private: int
    mapped: int


def pss_of(pid: int) -> Pss:
    """By the kernel's account."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        found[name.rstrip(":")] = int(value) * 1024
    return Pss(found["Pss_Anon"], found["Pss_File"] + found.get("Pss_Shmem", 0))


def measured_floors(known: Floors, requests: int) -> Floors:
    """`known` with what this machine says of processes and of a list's CPU; `known` is to have this
    run's cost of a search, which is taken off."""
    with drill_stack(items=ITEMS, users=USERS, seed=9, replicas=1) as stack:
        (gateway,) = gateways(stack)
        cpu_s = _list_cpu_s(stack, gateway, requests)
        own = pss_of(gateway)
        everything = processes.find(stack.cluster.state.stack_id, stack.cluster.state.head_pid)
        encoders = of_stack(stack, lambda line: "WordsEncoder" in " ".join(line))
        apart = {gateway, *(process.pid for process in encoders)}
        rest = [pss_of(process.pid) for process in everything if process.pid not in apart]
    bert = json.loads(subprocess.check_output([sys.executable, "-c", BERT], text=True))
    return replace(
        known,
        replica_private=own.private,
        replica_mapped=own.mapped,
        encoder=bert["all"],
        ray=sum(pss.private + pss.mapped for pss in rest),
        request_cpu_s=max(0.0, cpu_s - known.search_cpu_s),
    )


def _list_cpu_s(stack: DrillStack, gateway: int, requests: int) -> float:
    """CPU of the replica and of HAProxy a list, in seconds, one after the other over one
    connection; each by a user with an event since the last."""
    watched = [psutil.Process(gateway), *proxies(stack)]
    spent = 0.0
    with httpx.Client(base_url=stack.url, timeout=30) as http:
        for number in tqdm(range(WARM + requests), desc="lists", leave=False):
            user = f"idle{number % USERS}"
            event = {"kind": "view", "user_id": user, "item_id": f"i{number % ITEMS}"}
            http.post("/v1/events", json=event).raise_for_status()
            time.sleep(0.002)  # what the event left to do is not the list's
            before = _cpu_s(watched)
            http.get(f"/v1/users/{user}/recommendations", params={"k": 20}).raise_for_status()
            if number >= WARM:
                spent += _cpu_s(watched) - before
    return spent / requests


def _cpu_s(watched: list[psutil.Process]) -> float:
    total = 0.0
    for process in watched:
        # Nanoseconds, where psutil's times have a hundredth of a second.
        for stat in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            total += int(stat.read_text().split()[0]) / 1e9
    return total
