"""Generations of several sizes, each made and held in processes of its own, beside the formula."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from infra.bench import sizing
from infra.bench.made_generation import ACTIVE_SHARE, RESIDUAL_SHARE, Shape
from ray_jobs.shards.placement import choose_family


@dataclass(frozen=True)
class Held:
    """What `held_memory` told of a size."""

    ask: sizing.Ask
    before: sizing.Bytes
    after: sizing.Bytes
    after_two: sizing.Bytes
    """With a second generation of the same files, copied."""
    load_s: float
    search_wall_s: float
    search_cpu_s: float
    session_bytes: float

    @property
    def grown(self) -> sizing.Bytes:
        """What the generation added."""
        return sizing.Bytes(
            self.after.private - self.before.private, self.after.mapped - self.before.mapped
        )

    @property
    def grown_again(self) -> sizing.Bytes:
        """What the second one added."""
        return sizing.Bytes(
            self.after_two.private - self.after.private, self.after_two.mapped - self.after.mapped
        )


def hold(root: Path, items: int) -> Held:
    """Make a generation, hold it in another process; both end."""
    run_module("infra.bench.made_generation", str(root), str(items))
    told = json.loads(run_module("infra.bench.held_memory", str(root)))
    shape = Shape(items)
    ask = sizing.Ask(
        items=items,
        dim=shape.dim,
        text_dim=shape.text_dim,
        item_bytes=told["item_bytes"],
        neighbours=shape.neighbours,
        residual_share=RESIDUAL_SHARE,
        active_share=ACTIVE_SHARE,
    )
    before, after, after_two = (
        sizing.Bytes(told[at]["private"], told[at]["mapped"])
        for at in ("before", "after", "after_two")
    )
    return Held(
        ask,
        before,
        after,
        after_two,
        *(told[name] for name in ("load_s", "search_wall_s", "search_cpu_s", "session_bytes")),
    )


def run_module(module: str, *arguments: str) -> str:
    """Run a module in a process of its own, numerics in one thread; gives what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def fitted(sizes: Sequence[Held]) -> sizing.Floors:
    """Floors whose search cost is that of these sizes: seconds = a + b x bytes read, by least
    squares of the relative error. Of IVF alone where two sizes have it: Flat reads more quickly."""
    ivf = [held for held in sizes if choose_family(held.ask.items).family != "Flat"]
    taken = ivf if len(ivf) > 1 else sizes
    read = np.array([sizing.search_bytes(held.ask) for held in taken])
    spent = np.array([held.search_cpu_s for held in taken])
    design = np.stack([1 / spent, read / spent], axis=1)
    (fixed, a_byte), *_ = np.linalg.lstsq(design, np.ones(len(taken)), rcond=None)
    return replace(
        sizing.Floors(), search_cpu_s=max(0.0, float(fixed)), byte_cpu_s=max(0.0, float(a_byte))
    )


def expected_growth(held: Held) -> sizing.Bytes:
    """What a generation adds to a process that had none, by the formula as `moonlark size` has
    it."""
    one = sizing.generation_bytes(held.ask)
    return sizing.process_bytes(sizing.Bytes(0), one, 1, sizing.Floors())


def expected(held: Held) -> float:
    """Memory of the process that holds it: what it had before, and the bytes of the formula."""
    return held.before.all + expected_growth(held).all
