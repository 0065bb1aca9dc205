"""Step 4, second part: one shard, in a job of its own.

Run: python -m ray_jobs.nightly.build_shard --generation ID --shard N
"""

import argparse
from functools import partial

from ray_jobs.nightly.build import build_shard, shard_task
from ray_jobs.nightly.step import Night, Report, run_job
from ray_jobs.nightly.step_figures import PLAN, shard_step
from ray_jobs.shards.manifest import shard_name


def one_shard(number: int, night: Night) -> Report:
    """Write shard `number` of the plan."""
    plan = night.workspace.require_report(PLAN)
    return {"shard_items": build_shard(shard_task(night, plan, number))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="one shard of a generation")
    parser.add_argument("--generation", required=True, help="id of the generation being made")
    parser.add_argument("--shard", required=True, type=int, help="its number, from 0")
    asked = parser.parse_args()
    run_job(
        shard_step(asked.shard),
        partial(one_shard, asked.shard),
        asked.generation,
        beside_others=True,
        wrote=lambda workspace: [workspace.directory / shard_name(asked.shard)],
    )
