"""A table: models on one data set under one protocol.

    evaluate(Request("ml-100k", models=("moonlark", "ease")))

gives a Table per variant and, from it, the JSON of `moonlark evaluate` (`as_json`). Options are
chosen on validation, the test is walked once a model and seed.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from infra.evaluation import rankers, registry
from infra.evaluation.answers_file import read_answers, write_answers
from infra.evaluation.figures import (
    Facts,
    difference,
    facts_of,
    figures_of,
    mean_ndcg,
)
from infra.evaluation.interactions import Interactions
from infra.evaluation.leave_one_out import leave_one_out
from infra.evaluation.registry import Setting, entry_of, make
from infra.evaluation.replay import Variant, replay
from infra.evaluation.shelf_digest import shelf_digest
from infra.evaluation.task import Task
from infra.evaluation.walk import CUTOFF, Answers, Progress, walk
from ray_jobs.encoders.fit import TrainConfig, nightly

Protocol = Literal["leave-one-out", "replay"]
LEAVE_ONE_OUT: Protocol = "leave-one-out"
Say = Callable[[str], None]
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def _silent(line: str) -> None:
    """Says nothing."""


def _no_bar(label: str, total: int) -> Progress:
    return lambda count: None


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be measured.

    `embed` makes the text vectors; without it there is no diversity and no model that reads texts.
    `bar(label, questions)` gives what is told of each answer.
    """

    models: tuple[str, ...]
    protocol: Protocol = LEAVE_ONE_OUT
    variants: tuple[Variant, ...] = ("nightly+live",)
    seeds: tuple[int, ...] = (0,)
    k: int = CUTOFF
    """Length of the lists that are scored."""
    nights: int = 7
    until_ms: int | None = None
    train_days: int = 84
    """Neural models are trained anew when the last training is so old; all else each lesson."""
    fuse_days: int = 7
    """As `train_days`, for the weights of fusion."""
    recipe: Callable[[int], TrainConfig] = nightly
    embed: Embed | None = None
    cache: Path = Path(".moonlark/evaluation")
    say: Say = _silent
    bar: Callable[[str, int], Progress] = _no_bar
    repeat_baselines: bool = True
    """Whether baselines that have a seed are run with each; else only our own models are."""
    kept: Path | None = None
    """Answers are kept in this folder, and those of a run before are taken from it: a table of
    hours that breaks off goes on where it was."""
    only_kept: bool = False
    """Measure nothing: rows that are not kept are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One model: its answers by seed, and what it chose on validation."""

    name: str
    runs: tuple[Answers, ...]
    choice: str


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One variant (or leave-one-out): the rows in the order in which they were asked for."""

    variant: str
    task: Task
    facts: Facts
    rows: tuple[Row, ...]
    bert_IT: NDArray[np.float32] | None = field(repr=False)
    k: int = CUTOFF

    def figures(self) -> dict[str, dict[str, Any]]:
        """By model; `difference` is against the first one: how much more the first gains."""
        if not self.rows:
            return {}
        first = self.rows[0]
        result = {}
        for row in self.rows:
            figures = figures_of(self.facts, row.runs, self.bert_IT)
            if row is not first:
                gains = mean_ndcg(first.runs), mean_ndcg(row.runs)
                figures["difference"] = difference(self.facts, *gains)
            result[row.name] = figures | {"chosen": row.choice}
        return result


def evaluate(interactions: Interactions, request: Request) -> list[Table]:
    """A table for each variant (leave-one-out: one).

    Raises:
        UnknownModel, NoReplay, TooLittleData: before anything is learned.
        NotHere: the same, but where there are no text vectors or RecTools breaks off.
    """
    for name in request.models:
        entry = entry_of(name)
        if not request.only_kept:
            entry.check(name, interactions, request.cache)
    return [_table(variant, task, request) for variant, task in _tasks(interactions, request)]


def _tasks(interactions: Interactions, request: Request) -> list[tuple[str, Task]]:
    if request.protocol == LEAVE_ONE_OUT:
        return [(LEAVE_ONE_OUT, leave_one_out(interactions))]
    return [
        (variant, replay(interactions, variant, request.nights, request.until_ms))
        for variant in request.variants
    ]


def _table(variant: str, task: Task, request: Request) -> Table:
    events = task.log.interactions
    request.say(
        f"{events.name}, {variant}: {events.user_count} users, {events.item_count} items, "
        f"{task.steps.count} questions"
    )
    bert_IT = None if request.embed is None else request.embed(events.texts_I)
    rows = [_row(name, variant, task, bert_IT, request) for name in request.models]
    asked = tuple(row for row in rows if row.runs)
    return Table(variant, task, facts_of(task), asked, bert_IT, request.k)


def _row(
    name: str, variant: str, task: Task, bert_IT: NDArray[np.float32] | None, request: Request
) -> Row:
    entry = entry_of(name)
    is_repeated = entry.seeded and (entry.is_ours or request.repeat_baselines)
    seeds = request.seeds if is_repeated else request.seeds[:1]
    runs, choice = [], ""
    for seed in seeds:
        path = _path(request, task, name, variant, seed, bert_IT)
        if path is not None and path.is_file():
            answers, choice = read_answers(path)
            runs.append(answers)
        if request.only_kept or (path is not None and path.is_file()):
            continue
        setting = Setting(
            interactions=task.log.interactions,
            seed=seed,
            recipe=request.recipe(seed),
            bert_IT=bert_IT,
            cache=request.cache,
            train_days=request.train_days,
            fuse_days=request.fuse_days,
            say=lambda line: request.say(f"{name}: {line}"),
        )
        ranker = make(name, setting)
        label = name if variant == LEAVE_ONE_OUT else f"{name}, {variant}"
        runs.append(walk(task, ranker, request.bar(label, task.steps.count), request.k))
        choice = str(getattr(ranker, "choice", ""))
        if path is not None:
            write_answers(path, runs[-1], choice)
    return Row(name, tuple(runs), choice)


def _path(
    request: Request,
    task: Task,
    name: str,
    variant: str,
    seed: int,
    bert_IT: NDArray[np.float32] | None,
) -> Path | None:
    if request.kept is None:
        return None
    parts = [task.log.interactions.name, variant, f"{request.nights}n", name, f"s{seed}"]
    entry = entry_of(name)
    parts += [shelf_digest(rankers, *entry.shelves)]
    parts += [_digest(Path(registry.__file__).read_bytes())] if entry.chooses else []
    parts += [_trained_by(request, seed)] if entry.seeded else []
    parts += [_digest(bert_IT.tobytes())] if entry.is_ours and bert_IT is not None else []
    parts += [f"k{request.k}"] if request.k != CUTOFF else []
    return request.kept / f"{'_'.join(parts)}_{task.steps.count}.npz"


def _trained_by(request: Request, seed: int) -> str:
    """Of what decides neural weights beside the code, 8 hex digits."""
    return _digest(repr((request.recipe(seed), request.train_days, request.fuse_days)).encode())


def _digest(said: bytes) -> str:
    return hashlib.blake2b(said, digest_size=4).hexdigest()


def as_json(interactions: Interactions, request: Request, tables: list[Table]) -> dict[str, Any]:
    """The figures, and what they are of. `models` are those of the last variant."""
    by_variant = {table.variant: table.figures() for table in tables}
    result: dict[str, Any] = {
        "protocol": request.protocol,
        "data": interactions.name,
        "seed": request.seeds[0],
        "seeds": list(request.seeds),
        "k": request.k,
        "questions": tables[-1].task.steps.count,
        "models": by_variant[tables[-1].variant],
    }
    if request.protocol != LEAVE_ONE_OUT:
        result |= {"nights": request.nights, "variants": by_variant}
        result["live_feedback"] = live_feedback(tables)
    return result


def live_feedback(tables: list[Table]) -> dict[str, Any]:
    """What live events add over the same nights without them, by model: in all, and by hour of the
    day (UTC). Empty where one of the two variants was not asked for."""
    of = {table.variant: table for table in tables}
    if not {"nightly", "nightly+live"} <= of.keys():
        return {}
    live, nightly_only = of["nightly+live"], of["nightly"]
    hours_Q = live.facts.at_ms_Q // 3_600_000 % 24
    result = {}
    without_live = {row.name: row for row in nightly_only.rows}
    for with_live in live.rows:
        without = without_live.get(with_live.name)
        if without is None:
            continue
        first_Q, second_Q = mean_ndcg(with_live.runs), mean_ndcg(without.runs)
        by_hour = [
            float((first_Q - second_Q)[hours_Q == hour].mean()) if (hours_Q == hour).any() else None
            for hour in range(24)
        ]
        gain = difference(live.facts, first_Q, second_Q)
        result[with_live.name] = gain | {"by_hour": by_hour}
    return result
