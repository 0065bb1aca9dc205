"""The steps of the night, beside what each could not do without.

    python -m infra.bench.night

On one local Ray cluster: a first night, a second one after 1 % of the texts changed, the steps that
Ray workers share with one worker and with two, and a night of made vectors.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from infra.bench.night_catalog import change_texts, fill_catalog, fill_log
from infra.bench.night_report import WORKERS, NightTimes, Plan, report
from infra.bench.report import Report, Size, run_bench
from infra.cli.settings import CliSettings
from infra.datasets.movielens import MovieLens, read_movielens
from infra.stack.ray_cluster import LocalRay
from sql.engine import migrate, open_engine

PROJECT = Path(__file__).parents[2]
CPUS = WORKERS + 1
"""Of the cluster: Ray Data reads and writes beside the actors that embed."""
CHANGED_SHARE = 0.01


PLANS: dict[Size, Plan] = {
    "full": Plan(100_000, 10_000, 1_000_000, events=8_000, recipe="nightly"),
    "small": Plan(400, 400, 1_000, events=1_500, recipe="tiny"),
}


class Store:
    """A catalog and a log of their own, and the nights that are run on them."""

    def __init__(self, folder: Path, cluster: LocalRay, recipe: str) -> None:
        folder.mkdir()
        self._cluster = cluster
        self._environment = {
            "MOONLARK_DATABASE_URL": f"sqlite:///{folder / 'moonlark.db'}",
            "MOONLARK_ARTIFACT_ROOT": str(folder / "artifacts"),
            "MOONLARK_TRAIN_RECIPE": recipe,
            # The gate measures as ever; what it refuses is not what is timed here.
            "MOONLARK_GATE_MARGIN": "1",
            "MOONLARK_GATE_MIN_INDEX_RECALL": "0",
        }
        self.engine = open_engine(self._environment["MOONLARK_DATABASE_URL"])
        migrate(self.engine)

    def night(
        self, generation: str, workers: int, *more: str, name: str | None = None
    ) -> NightTimes:
        """Run one, in a process of its own."""
        environment = {
            **os.environ,
            **self._cluster.env,
            **self._environment,
            "MOONLARK_EMBED_WORKERS": str(workers),
            "MOONLARK_TRAIN_WORKERS": str(workers),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "infra.bench.night_run", "--generation", generation]
        done = subprocess.run(
            [*command, *more], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        told = json.loads(done.stdout.splitlines()[-1])
        return NightTimes(name or generation, told["seconds"], told["reports"], told["floors"])


def measure(size: Size) -> Report:
    """See the module."""
    plan = PLANS[size]
    data = read_movielens(CliSettings().state_dir / "datasets" / "ml-100k")
    extra = {
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    with TemporaryDirectory(prefix="mlk-night-") as name, tqdm(desc="nights") as bar:
        root = Path(name)
        with LocalRay(root / "stack", 0, CPUS, cwd=PROJECT, extra_env=extra) as cluster:
            first, second = _two_nights(root, cluster, plan, data, bar)
            one = _with_workers(1, root, cluster, plan, data, bar)
            two = first  # a first night of that many texts, by all workers
            if plan.shared_texts != plan.texts:
                two = _with_workers(WORKERS, root, cluster, plan, data, bar)
            made = _made(root, cluster, plan, data, bar)
    return report(plan, (first, second, made), (one, two))


def _two_nights(
    root: Path, cluster: LocalRay, plan: Plan, data: MovieLens, bar: "tqdm[Any]"
) -> tuple[NightTimes, NightTimes]:
    store = Store(root / "texts", cluster, plan.recipe)
    fill_catalog(store.engine, data, plan.texts)
    fill_log(store.engine, data, plan.texts, plan.events, seed=1)
    first = store.night("g1", WORKERS, name="the first night")
    bar.update()
    change_texts(store.engine, data, plan.texts, CHANGED_SHARE)
    second = store.night("g2", WORKERS, name="the night after 1 % of the texts changed")
    bar.update()
    store.engine.dispose()
    return first, second


def _with_workers(
    workers: int, root: Path, cluster: LocalRay, plan: Plan, data: MovieLens, bar: "tqdm[Any]"
) -> NightTimes:
    """Up to the training, on a store of its own: another would find its texts embedded."""
    store = Store(root / f"workers{workers}", cluster, plan.recipe)
    fill_catalog(store.engine, data, plan.shared_texts)
    fill_log(store.engine, data, plan.shared_texts, plan.events, seed=2)
    found = store.night(f"w{workers}", workers, "--until", "train")
    store.engine.dispose()
    bar.update()
    return found


def _made(
    root: Path, cluster: LocalRay, plan: Plan, data: MovieLens, bar: "tqdm[Any]"
) -> NightTimes:
    store = Store(root / "made", cluster, plan.recipe)
    fill_catalog(store.engine, data, plan.made)
    fill_log(store.engine, data, plan.made, plan.events, seed=3)
    made = store.night("m1", WORKERS, "--made", name="a night of made vectors")
    store.engine.dispose()
    bar.update()
    return made


if __name__ == "__main__":
    run_bench("night", measure)
