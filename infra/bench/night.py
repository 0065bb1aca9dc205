"""The steps of the night, beside what each could not do without.

    python -m infra.bench.night

On one local Ray cluster: a first night, a second one after 1 % of the texts changed, the steps that
Ray workers share with one worker and with two, and a night of made vectors.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from infra.bench.night_catalog import change_texts, fill_catalog, fill_log
from infra.bench.report import Ratio, Report, Size, Table, run_bench
from infra.cli.settings import CliSettings
from infra.datasets.movielens import MovieLens, read_movielens
from infra.stack.ray_cluster import LocalRay
from sql.engine import migrate, open_engine

PROJECT = Path(__file__).parents[2]
WORKERS = 2
CPUS = WORKERS + 1
"""Of the cluster: Ray Data reads and writes beside the actors that embed."""
CHANGED_SHARE = 0.01
NEXT_TO_NOTHING = 0.01
SHARED = ("embed", "train")
"""Steps that several workers share by setting."""
FLOORS = {
    "export": "every row read by sqlite3",
    "embed": "texts embedded / (texts/s of BERT alone x workers)",
    "build": "one index by faiss",
    "fuse": "questions x one product with all item vectors",
    "fold": "the fold's step x events",
    "evaluate": "questions x models x one product with all item vectors",
    "publish": "sha256 of all files, twice",
    "verify": "sha256 of all files",
}


@dataclass(frozen=True)
class Plan:
    """Sizes: texts of the first two nights, texts of those by workers, items with made vectors."""

    texts: int
    shared_texts: int
    made: int
    events: int
    recipe: str


PLANS: dict[Size, Plan] = {
    "full": Plan(100_000, 10_000, 1_000_000, events=10_000, recipe="nightly"),
    "small": Plan(1_200, 300, 3_000, events=1_500, recipe="tiny"),
}


@dataclass(frozen=True)
class NightTimes:
    """Of one night, by step: seconds, what it reported, and the seconds of its floor."""

    name: str
    seconds: Mapping[str, float]
    reports: Mapping[str, Mapping[str, Any]]
    floors: Mapping[str, float]

    def ratio(self, step: str) -> float:
        """The step by its floor."""
        return self.seconds[step] / self.floors[step]


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
    with TemporaryDirectory(prefix="mlk-night-") as name, tqdm(total=5, desc="nights") as bar:
        root = Path(name)
        with LocalRay(root / "stack", 0, CPUS, cwd=PROJECT, extra_env=extra) as cluster:
            first, second = _two_nights(root, cluster, plan, data, bar)
            one, two = _by_workers(root, cluster, plan, data, bar)
            made = _made(root, cluster, plan, data, bar)
    return _report(size, plan, (first, second, made), (one, two))


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


def _by_workers(
    root: Path, cluster: LocalRay, plan: Plan, data: MovieLens, bar: "tqdm[Any]"
) -> tuple[NightTimes, NightTimes]:
    """Up to the training, one store each: the second would find its texts embedded."""
    found = []
    for workers in (1, WORKERS):
        store = Store(root / f"workers{workers}", cluster, plan.recipe)
        fill_catalog(store.engine, data, plan.shared_texts)
        fill_log(store.engine, data, plan.shared_texts, plan.events, seed=2)
        found.append(store.night(f"w{workers}", workers, "--until", "train"))
        store.engine.dispose()
        bar.update()
    one, two = found
    return one, two


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


def _report(
    size: Size, plan: Plan, nights: Sequence[NightTimes], shared: Sequence[NightTimes]
) -> Report:
    first, second, made = nights
    return Report(
        bench="night",
        about=(
            f"The steps of `moonlark night` on one local Ray cluster with {WORKERS} workers: "
            f"{plan.texts:,} distinct texts (MovieLens titles repeated with changes), then 1 % of "
            f"them changed, and {plan.made:,} items with made vectors. Each step beside its floor, "
            "measured in the same process before the publish."
        ),
        ratios=(*_ratios(first, second, made), *_speed_ups(*shared)),
        tables=(*(_table(night) for night in nights), _workers_table(*shared)),
        notes=(
            f"Measured whole: {first.reports['embed']['embedded']:,} texts embedded, and the night "
            "after. No figure is calculated from a smaller one.",
            f"Texts are short: title and category. The log has "
            f"{first.reports['export']['events']:,} ratings of "
            f"{first.reports['export']['users']:,} users, fewer than a catalog of that size would "
            "have: training, fusion, evaluation and fold grow with the log and not with the "
            "catalog (the benches `train` and `fold`).",
            "The night of made vectors skips embed (vectors of 128 are drawn instead) and parity, "
            "which would ask BERT.",
            "The gate refuses nothing here, whatever it measures; no replica is waited for.",
            f"Workers share embed and train; measured with {plan.shared_texts:,} texts.",
        ),
        size=size,
    )


def _ratios(first: NightTimes, second: NightTimes, made: NightTimes) -> list[Ratio]:
    unchanged = second.reports["embed"]["reused"]
    new_s = first.seconds["embed"] / first.reports["embed"]["embedded"]
    kept_s = max(0.0, second.seconds["embed"] - second.floors["embed"]) / unchanged
    ratios = [
        Ratio(
            name="an unchanged text",
            value=kept_s / new_s,
            of=f"step embed less the floor of what changed, a text of {unchanged:,} kept / a text "
            "of the first night",
            at_most=NEXT_TO_NOTHING,
        ),
        Ratio(
            name="embed after 1 % changed",
            value=second.seconds["embed"] / first.seconds["embed"],
            of="the step / of the first night",
        ),
        Ratio(
            name="the night after 1 % changed",
            value=sum(second.seconds.values()) / sum(first.seconds.values()),
            of="all steps / of the first night",
        ),
        Ratio(name="embed", value=first.ratio("embed"), of=f"the step / {FLOORS['embed']}"),
    ]
    for step in ("export", "build", "fuse", "fold", "evaluate", "publish"):
        if made.floors[step] > 0:
            name = f"{step}, made vectors"
            ratios.append(Ratio(name=name, value=made.ratio(step), of=f"the step / {FLOORS[step]}"))
    return ratios


def _speed_ups(one: NightTimes, two: NightTimes) -> list[Ratio]:
    return [
        Ratio(
            name=f"{step} by {WORKERS} workers",
            value=one.seconds[step] / two.seconds[step],
            of="seconds of one worker / of two",
        )
        for step in SHARED
    ]


def _table(night: NightTimes) -> Table:
    rows = []
    for step, seconds in night.seconds.items():
        floor = night.floors.get(step)
        rows.append(
            (
                step,
                f"{seconds:.1f}",
                "" if floor is None else f"{floor:.2f}",
                "" if not floor else f"{seconds / floor:.1f}",
                FLOORS.get(step, "") if floor is not None else "",
            )
        )
    rows.append(("together", f"{sum(night.seconds.values()):.1f}", "", "", ""))
    exported, embedded = night.reports["export"], night.reports["embed"]
    title = (
        f"{night.name}: {exported['items']:,} items, {embedded['embedded']:,} texts embedded, "
        f"{embedded['reused']:,} kept, {exported['events']:,} events"
    )
    return Table(title=title, columns=("step", "s", "floor s", "x", "floor"), rows=tuple(rows))


def _workers_table(one: NightTimes, two: NightTimes) -> Table:
    rows = tuple(
        (
            step,
            f"{one.seconds[step]:.1f}",
            f"{two.seconds[step]:.1f}",
            f"{one.seconds[step] / two.seconds[step]:.2f}",
        )
        for step in one.seconds
    )
    title = f"By Ray workers: {one.reports['embed']['embedded']:,} texts"
    return Table(title=title, columns=("step", "1 worker s", "2 workers s", "x"), rows=rows)


if __name__ == "__main__":
    run_bench("night", measure)
