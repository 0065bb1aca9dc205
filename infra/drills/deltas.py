"""Drill `deltas`: items change at random beside searches, switches and restarts.

Every change goes through the store, every search through the shipped view of a loaded generation,
and every list is held against a brute-force oracle: nothing deleted, nothing twice, never fewer
than min(k, eligible) items. At checkpoints recall is compared with an index that was rebuilt from
the same catalog under the same weights.

Two catalogs: a small one (Flat, exact) and one above 20,000 items (IVF), clustered as real
embeddings are. No HTTP, but for a sample at the end (`deltas_http`).
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from infra.drills.catalog import TEXT_DIM
from infra.drills.delta_walk import Walk
from infra.drills.deltas_http import walk_over_http
from infra.drills.figures import Figures, Options
from ray_jobs.shards.placement import FamilyChoice
from sql.engine import migrate, open_engine

OPS = 100_000
HTTP_SHARE = 200
"""One operation in so many more is made over HTTP, at the end."""


class Phase(NamedTuple):
    """`choice`: the index family; None: as the catalog's size says."""

    name: str
    items: int
    share: float
    recall_queries: int
    choice: FamilyChoice | None


LONG = (Phase("flat", 4_000, 0.3, 500, None), Phase("ivf", 24_000, 0.7, 500, None))
SHORT = (
    Phase("flat", 300, 0.4, 50, None),
    Phase("ivf", 3_000, 0.6, 100, FamilyChoice("IVF,SQfp16", nlist=128, nprobe=32)),
)
"""For a few thousand operations: an IVF over a catalog that the day would search exactly."""
SHORT_BELOW = 20_000


def run(options: Options) -> Figures:
    """`ops` operations over both catalogs."""
    ops = OPS if options.ops is None else options.ops
    figures = Figures("deltas", options.rounds or 1, options.seed)
    started_s = time.monotonic()
    with tqdm(total=ops, desc="deltas", unit="op", disable=not options.progress) as progress:
        for number, phase in enumerate(SHORT if ops < SHORT_BELOW else LONG):
            with _store() as (url, root):
                engine = open_engine(url)
                migrate(engine)
                walk = Walk(
                    engine,
                    root,
                    figures,
                    (options.seed, number),
                    phase.choice,
                    phase.recall_queries,
                )
                walk.fill(phase.items)
                walk.run(int(ops * phase.share), progress.update)
                walk_over_http(walk, url, max(20, int(ops * phase.share) // HTTP_SHARE))
                figures.more[f"{phase.name}_items"] = walk.count
                walk.report(phase.name)
                engine.dispose()
    figures.more["ops"] = ops
    figures.more["text_dim"] = TEXT_DIM
    figures.more["seconds"] = round(time.monotonic() - started_s, 1)
    return figures


@contextmanager
def _store() -> Iterator[tuple[str, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="moonlark-drill-"))
    try:
        yield f"sqlite:///{folder / 'moonlark.db'}", folder / "artifacts"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
