"""Tables of ABLATIONS.md that need time to pass: fusion, the encoder where there are new items, and
what drift does to epochs and windows.

A replay of the days before the cut, which the tests of ACCURACY.md begin at: what is chosen here
has not seen them. Learned anew every 7 nights (weights of fusion on IFDB every 28), neural weights
once, on the first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infra.bench.accuracy_page import PACKAGES, TITLE, interval
from infra.bench.machine import machine, told, versions
from infra.evaluation import ablations, rankers
from infra.evaluation.ablations.fusions import FUSIONS, walk_fusions
from infra.evaluation.ablations.ranker import TorchCosine
from infra.evaluation.ablations.variants import VARIANTS, Variant
from infra.evaluation.ablations.windows import Windowed
from infra.evaluation.answers_file import read_answers, write_answers
from infra.evaluation.bar import question_bar
from infra.evaluation.figures import Facts, difference, facts_of, mean_ndcg, parts_of
from infra.evaluation.load import load_interactions
from infra.evaluation.rankers.choosing import OrPopular
from infra.evaluation.rankers.fused import Fused
from infra.evaluation.registry import FUSED, WINDOWS
from infra.evaluation.replay import replay
from infra.evaluation.shelf_digest import shelf_digest
from infra.evaluation.task import Ranker, Task
from infra.evaluation.walk import Answers, walk
from ray_jobs import encoders
from ray_jobs.encoders.fit import nightly

ONCE = 10**6
"""Days: neural weights are learned on the first night and not again."""
EPOCHS = (3, 6, 24)
LASTS = (10, 20, 50, 100)
OF_ENCODER = ("", "pooling", "gates", "items", "size")
PART_TITLES: Mapping[str, str] = {
    "warm": "warm items",
    "cold": "cold items",
    "known_users": "known users",
    "new_users": "new users",
}


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One variant: by seed. A row whose `about` is empty is what the others are compared with."""

    name: str
    about: str
    runs: Sequence[Answers]


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What the tables are made with."""

    state_dir: Path
    embed: Callable[[Sequence[str]], NDArray[np.float32]]
    seeds: int
    only_kept: bool


Rows = Callable[[Task, str, Bench], list[Row]]


@dataclass(frozen=True)
class ReplayPlan:
    """One table; `rows` measures it."""

    title: str
    data: str
    rows: Rows


def _fusions(days: int, task: Task, data: str, bench: Bench) -> list[Row]:
    digest = shelf_digest(*FUSED, ablations, rankers)
    runs: dict[str, list[Answers]] = {variant.name: [] for variant in FUSIONS}
    for seed in range(bench.seeds):
        paths = [_path(bench, data, f"fusion {v.name}", seed, digest) for v in FUSIONS]
        if not all(path.is_file() for path in paths) and not bench.only_kept:
            cosine = _cosine(task, bench, seed)
            fused = Fused(cosine, cosine, days)
            bar = question_bar(f"{data}, fusions, seed {seed}", task.steps.count)
            answers = walk_fusions(task, fused, FUSIONS, bar)
            for path, answer in zip(paths, answers, strict=True):
                write_answers(path, answer, "")
        if all(path.is_file() for path in paths):
            for variant, path in zip(FUSIONS, paths, strict=True):
                runs[variant.name].append(read_answers(path)[0])
    return [Row(v.name, v.about, runs[v.name]) for v in FUSIONS if len(runs[v.name]) == bench.seeds]


def _drifts(task: Task, data: str, bench: Bench) -> list[Row]:
    shipped = nightly().epochs
    cells: list[tuple[str, str, int, int | None]] = [("shipped", "", shipped, None)]
    cells += [(f"{epochs} epochs", "epochs", epochs, None) for epochs in EPOCHS]
    cells += [(f"the last {last} events read", "window", shipped, last) for last in LASTS]
    made = [
        (name, about, partial(_cosine, task, bench, epochs=epochs, last=last))
        for name, about, epochs, last in cells
    ]
    return _walked(task, data, "drift", bench, made)


def _encoders(task: Task, data: str, bench: Bench) -> list[Row]:
    def of(variant: Variant, seed: int) -> Ranker:
        bert_IT = bench.embed(task.log.interactions.texts_I)
        return TorchCosine(variant, nightly(seed), bert_IT, tqdm.write, {}, ONCE)

    asked = [row for row in VARIANTS if row.about in OF_ENCODER and "epochs" not in row.name]
    cells = [(row.name, row.about, partial(of, row)) for row in asked]
    return _walked(task, data, "encoder", bench, cells)


def _walked(
    task: Task,
    data: str,
    part: str,
    bench: Bench,
    cells: Sequence[tuple[str, str, Callable[[int], Ranker]]],
) -> list[Row]:
    """Of (name, about, what makes the ranker of a seed): users without a history get what was
    popular. Rows that were not measured with all seeds are left out."""
    rows = []
    for name, about, make in cells:
        runs = []
        for seed in range(bench.seeds):
            path = _path(bench, data, f"{part} {name}", seed, shelf_digest(encoders, ablations))
            if not path.is_file() and not bench.only_kept:
                bar = question_bar(f"{data}, {name}, seed {seed}", task.steps.count)
                write_answers(path, walk(task, OrPopular(make(seed), WINDOWS), bar), "")
            if path.is_file():
                runs.append(read_answers(path)[0])
        if len(runs) == bench.seeds:
            rows.append(Row(name, about, runs))
    return rows


PLANS = (
    ReplayPlan("IFDB, fusion, 180 days before the cut", "ifdb", partial(_fusions, 28)),
    ReplayPlan(
        "Online Retail, fusion, 28 days before the cut", "online_retail", partial(_fusions, 7)
    ),
    ReplayPlan("IFDB, the encoder, 180 days before the cut", "ifdb", _encoders),
    ReplayPlan("IFDB, epochs and windows, 180 days before the cut", "ifdb", _drifts),
    ReplayPlan(
        "Online Retail, epochs and windows, 28 days before the cut", "online_retail", _drifts
    ),
)


def table(plan: ReplayPlan, source: str, bench: Bench) -> list[str]:
    """The section of one plan, empty where nothing is there and `only_kept`."""
    test = replay(load_interactions(source, bench.state_dir))
    assert test.validation is not None, "a replay has one"
    task = replace(test.validation, validation=None)
    rows = plan.rows(task, plan.data, bench)
    if not rows or rows[0].about:
        return []
    facts = facts_of(task)
    parts = {name: of_Q for name, of_Q in parts_of(facts).items() if of_Q.any()}
    told_by = f"{datetime.now(UTC).date()}, {machine()}; {told(versions(PACKAGES))}"
    columns = ["", "", "NDCG@10", *(PART_TITLES[name] for name in parts), "more (95 %)", "CPU s"]
    seeds = f"; mean of {bench.seeds} seeds" if bench.seeds > 1 else "; seed 0"
    lines = [f"{TITLE}{plan.title}", ""]
    lines += [f"{task.steps.count:,} questions, {_between(facts)}{seeds}. {told_by}.", ""]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    shipped_Q = mean_ndcg(rows[0].runs)
    for row in rows:
        ndcg_Q = mean_ndcg(row.runs)
        more = "" if not row.about else interval(difference(facts, ndcg_Q, shipped_Q))
        cells = [f"{ndcg_Q.mean():.4f}", *(f"{ndcg_Q[of_Q].mean():.4f}" for of_Q in parts.values())]
        took_s = np.mean([run.fit_s for run in row.runs])
        lines.append(f"| {row.about} | {row.name} | {' | '.join(cells)} | {more} | {took_s:.0f} |")
    return [*lines, ""]


def _between(facts: Facts) -> str:
    first, last = (
        datetime.fromtimestamp(at_ms / 1000, UTC).date() for at_ms in facts.at_ms_Q[[0, -1]]
    )
    return f"{first} to {last}"


def _cosine(
    task: Task, bench: Bench, seed: int, epochs: int | None = None, last: int | None = None
) -> Windowed:
    recipe = nightly(seed)
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    bert_IT = bench.embed(task.log.interactions.texts_I)
    made = Windowed(recipe, bert_IT, bench.state_dir / "evaluation", tqdm.write, ONCE)
    made.last = last
    return made


def _path(bench: Bench, data: str, name: str, seed: int, digest: str) -> Path:
    slug = "".join(char if char.isalnum() else "-" for char in name)
    folder = bench.state_dir / "evaluation" / "ablations"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{data}_{slug}_s{seed}_{digest}.npz"
