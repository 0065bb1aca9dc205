"""One step of a small night as a job: what `python -m ray_jobs.nightly.STEP` does, without Ray.

python -m infra.drills.night_job -m ray_jobs.nightly.STEP --generation ID [--rebuild ID | --shard N]
python -m infra.drills.night_job -m ray_jobs.nightly.broke_off --generation ID --why REASON [--owed]
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from infra.drills.local import LocalStore
from infra.drills.small_night import Step, open_small_night, steps
from ray_jobs.encoders.train_config import tiny
from ray_jobs.nightly.broke_off import broke_off
from ray_jobs.nightly.build import plan_shards
from ray_jobs.nightly.build_shard import one_shard
from ray_jobs.nightly.export import export
from ray_jobs.nightly.rebuild import as_exported
from ray_jobs.nightly.step import RESULT_MARK, Report, run_step
from ray_jobs.nightly.step_figures import PLAN, shard_step
from sql.engine import open_engine
from sql.settings import StoreSettings

AT_LEAST_S = 3.0
"""A step of so small a night takes no time; something must be there to be interrupted."""


def main() -> None:
    """Entrypoint of the job."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="module", required=True)
    parser.add_argument("--generation", required=True)
    parser.add_argument("--rebuild", default="")
    parser.add_argument("--shard", type=int, default=0)
    parser.add_argument("--why", default="")
    parser.add_argument("--owed", action="store_true")
    report = _done(parser.parse_args())
    time.sleep(AT_LEAST_S)
    sys.stdout.write(f"{RESULT_MARK} {json.dumps(report, sort_keys=True)}\n")


def _done(asked: argparse.Namespace) -> Report:
    store = StoreSettings()
    root = Path(store.artifact_root)
    local = LocalStore(root.parent, store.database_url, open_engine(store.database_url))
    name = asked.module.rpartition(".")[2]
    night = open_small_night(local, asked.generation)
    if name == "broke_off":
        return broke_off(night, asked.why, is_owed=asked.owed)
    parts: dict[str, tuple[str, Step]] = {
        "export": ("export", partial(export, rebuild=asked.rebuild)),
        PLAN: (PLAN, plan_shards),
        "build_shard": (shard_step(asked.shard), partial(one_shard, asked.shard)),
        # Its canaries ask BERT again, and nothing here has any.
        "parity": ("parity", lambda night: {}),
    }
    step = parts.get(name) or (name, steps(tiny())[name])
    night = replace(night, settings=as_exported(night.settings, night.workspace))
    return run_step(night, *step, beside_others=name == "build_shard")


if __name__ == "__main__":
    main()
