"""What does not follow from bytes: processes that hold next to nothing.

A real stack (Ray, Serve, HAProxy, one gateway replica) with a catalog of 300 items; BERT in a
process of its own, for the stack has the drills' encoder.
"""

import subprocess
import sys
from dataclasses import replace

import httpx

from infra.bench.process_memory import memory_of
from infra.bench.sizing import Floors
from infra.cli.settings import CliSettings
from infra.drills.stack import DrillStack, drill_stack
from infra.drills.victims import gateways, of_stack
from infra.stack import processes
from ray_jobs.nightly.settings import NightSettings

ITEMS, USERS = 300, 50
WARM = 50
MINILM = "models/all-MiniLM-L6-v2"

BERT = """
import gc
import sys
import ray.serve
from infra.bench.process_memory import memory_of
from ray_jobs.encoders.item_bert import BertEncoder
encoder = BertEncoder(sys.argv[1])
encoder.encode([f"a text {n} as any other" for n in range(64)])
gc.collect()
print(memory_of().pss)
"""


def measured_floors(known: Floors, first_private: float) -> Floors:
    """`known` with what this machine says of processes. `first_private`: what a first generation
    that is as small costs once, which the gateway has behind it."""
    with drill_stack(items=ITEMS, users=USERS, seed=9, replicas=1) as stack:
        (gateway,) = gateways(stack)
        _ask_lists(stack)  # what a replica first needs then is in its memory
        own = memory_of(gateway)
        everything = processes.find(stack.cluster.state.stack_id, stack.cluster.state.head_pid)
        encoders = of_stack(stack, lambda line: "WordsEncoder" in " ".join(line))
        apart = {gateway, *(process.pid for process in encoders)}
        rest = [memory_of(process.pid) for process in everything if process.pid not in apart]
    model = NightSettings().bert_model or str(CliSettings().state_dir / MINILM)
    bert = int(subprocess.check_output([sys.executable, "-c", BERT, model], text=True))
    return replace(
        known,
        replica_private=round(own.private - first_private),
        replica_mapped=own.mapped,
        encoder=bert,
        ray=sum(found.pss for found in rest),
    )


def _ask_lists(stack: DrillStack) -> None:
    """Some lists, each after an event of its user."""
    with httpx.Client(base_url=stack.url, timeout=30) as http:
        for number in range(WARM):
            user = f"idle{number}"
            event = {"kind": "view", "user_id": user, "item_id": f"i{number % ITEMS}"}
            http.post("/v1/events", json=event).raise_for_status()
            http.get(f"/v1/users/{user}/recommendations", params={"k": 20}).raise_for_status()
