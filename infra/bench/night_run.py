"""One night, step by step as `moonlark night` runs them, on the cluster and the store that the
environment names.

    python -m infra.bench.night_run --generation ID [--until STEP] [--made]

Prints one JSON object: what each step reported, its seconds, and its floor. `--made`: the texts get
made vectors instead of BERT's, and what asks BERT again (parity) is left out.
"""

import argparse
import json
import logging
import os
import time

import numpy as np
import pyarrow.parquet as pq
import ray
import ray.data
from tqdm import tqdm

from infra.bench.made_generation import ENCODER_ID, made_vectors
from infra.bench.night_floors import floors
from infra.cli.night_steps import STEPS
from ray_jobs.encoders.item_bert import open_bert
from ray_jobs.nightly.event_vectors import write_event_vectors
from ray_jobs.nightly.step import NICENESS, Night, Report, open_night, run_step, settle
from ray_jobs.shards.texts import write_text_vectors
from sql import generations

MADE_DIM = 128
"""Width of made text vectors."""
ASKS_BERT = frozenset({"parity"})


def made(night: Night) -> Report:
    """In place of the step `embed`: its files and its report, without BERT."""
    exported = night.workspace.require_report("export")
    generations.register(
        night.engine,
        night.generation_id,
        encoder_id=ENCODER_ID,
        catalog_seq=exported["catalog_seq"],
        created_at_ms=exported["created_at_ms"],
    )
    digests = pq.read_table(night.workspace.texts, columns=["text_digest"])["text_digest"]
    vectors_ND = made_vectors(len(digests), MADE_DIM, np.random.default_rng(0))
    write_text_vectors(night.workspace.directory, digests.to_pylist(), vectors_ND)
    write_event_vectors(night.workspace.work, {}, MADE_DIM)
    return {
        "encoder_id": ENCODER_ID,
        "text_dim": MADE_DIM,
        "texts": len(digests),
        "embedded": 0,
        "reused": 0,
        "canary_texts": 0,
        "canary_min_cosine": None,
    }


def run(night: Night, until: str | None, *, is_made: bool) -> Report:
    """Run the steps; the floors are measured before the publish."""
    reports: dict[str, Report] = {}
    seconds: dict[str, float] = {}
    found: dict[str, float] = {}
    names = [name for name in STEPS if not (is_made and name in ASKS_BERT)]
    names = names if until is None else names[: names.index(until) + 1]
    for name in tqdm(names, desc=night.generation_id, unit="step", leave=False):
        if name == "publish":
            found = floors(night, reports)
        step = made if is_made and name == "embed" else STEPS[name]
        started = time.perf_counter()
        reports[name] = run_step(night, name, step)
        seconds[name] = time.perf_counter() - started
    return {"reports": reports, "seconds": seconds, "floors": found}


def main() -> None:
    """One night."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.night_run")
    parser.add_argument("--generation", required=True)
    parser.add_argument("--until", choices=list(STEPS))
    parser.add_argument("--made", action="store_true")
    arguments = parser.parse_args()
    os.nice(NICENESS)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.init(logging_level=logging.WARNING, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    night = open_night(arguments.generation)
    if not arguments.made:
        open_bert(night.settings)  # its libraries are no step's
    settle()
    print(json.dumps(run(night, arguments.until, is_made=arguments.made)))
    ray.shutdown()


if __name__ == "__main__":
    main()
