"""What does not follow from bytes: processes that hold next to nothing, and the CPU of a list.

Processes: a real stack (Ray, Serve, HAProxy, one gateway replica) with a catalog of 300 items; BERT
in a process of its own, for the stack has the drills' encoder. A list: as `list_cost` measures it,
on its smaller store, and what Serve and HAProxy need for an answer that has nothing in it.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
from tqdm import tqdm

from infra.bench import list_cost
from infra.bench.process_memory import memory_of
from infra.bench.report import Size
from infra.bench.sizing import Floors
from infra.cli.settings import CliSettings
from infra.drills.stack import DrillStack, drill_stack
from infra.drills.victims import gateways, of_stack, proxies
from infra.stack import processes
from ray_jobs.nightly.settings import NightSettings

ITEMS, USERS = 300, 50
WARM = 50
NOTHING = "/healthz"
MINILM = "models/all-MiniLM-L6-v2"

BERT = """
import json
import sys
import ray.serve
from infra.bench.held_memory import settled_memory
from ray_jobs.encoders.item_bert import BertEncoder
encoder = BertEncoder(sys.argv[1])
encoder.encode([f"a text {n} as any other" for n in range(64)])
print(json.dumps(settled_memory()))
"""


def measured_floors(known: Floors, first_private: float, size: Size, requests: int) -> Floors:
    """`known` with what this machine says of processes and of a list's CPU. `first_private`: what
    a first generation that is as small costs once, which the gateway has behind it."""
    with drill_stack(items=ITEMS, users=USERS, seed=9, replicas=1) as stack:
        (gateway,) = gateways(stack)
        _ask_lists(stack)  # what a replica first needs then is in its memory
        http_cpu_s = _nothing_cpu_s(stack, gateway, requests)
        own = memory_of(gateway)
        everything = processes.find(stack.cluster.state.stack_id, stack.cluster.state.head_pid)
        encoders = of_stack(stack, lambda line: "WordsEncoder" in " ".join(line))
        apart = {gateway, *(process.pid for process in encoders)}
        rest = [memory_of(process.pid) for process in everything if process.pid not in apart]
    model = NightSettings().bert_model or str(CliSettings().state_dir / MINILM)
    bert = json.loads(subprocess.check_output([sys.executable, "-c", BERT, model], text=True))
    return replace(
        known,
        replica_private=round(own.private - first_private),
        replica_mapped=own.mapped,
        encoder=bert["private"] + bert["mapped"],
        ray=sum(found.pss for found in rest),
        request_cpu_s=http_cpu_s + _list_cpu_s(size),
    )


def _list_cpu_s(size: Size) -> float:
    """CPU of a list in a replica's app, without what faiss alone needs, in seconds."""
    items, users = list_cost.SIZES[size][0]
    watch, floors = list_cost.measured(list_cost.store_of(items, users), list_cost.ASKED[size])
    return (watch.of(list_cost.REQUEST) - floors[list_cost.FAISS_ALONE]) / 1000


def _ask_lists(stack: DrillStack) -> None:
    """Some lists, each after an event of its user."""
    with httpx.Client(base_url=stack.url, timeout=30) as http:
        for number in range(WARM):
            user = f"idle{number}"
            event = {"kind": "view", "user_id": user, "item_id": f"i{number % ITEMS}"}
            http.post("/v1/events", json=event).raise_for_status()
            http.get(f"/v1/users/{user}/recommendations", params={"k": 20}).raise_for_status()


def _nothing_cpu_s(stack: DrillStack, gateway: int, requests: int) -> float:
    """CPU of the replica and of HAProxy for an answer that needs nothing, in seconds, one after the
    other over one connection."""
    watched = [psutil.Process(gateway), *proxies(stack)]
    with httpx.Client(base_url=stack.url, timeout=30) as http:
        for number in tqdm(range(WARM + requests), desc="answers of nothing", leave=False):
            if number == WARM:
                before = _cpu_s(watched)
            http.get(NOTHING).raise_for_status()
        return (_cpu_s(watched) - before) / requests


def _cpu_s(watched: list[psutil.Process]) -> float:
    total = 0.0
    for process in watched:
        # Nanoseconds, where psutil's times have a hundredth of a second.
        for stat in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            total += int(stat.read_text().split()[0]) / 1e9
    return total
