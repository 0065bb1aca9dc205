"""ABLATIONS.md: what ships, and what was tried instead, on the same questions.

    python -m infra.bench.ablations                  MovieLens 100K, leave-one-out
    python -m infra.bench.ablations --data FOLDER    and texts cleaned otherwise, on FOLDER/ifdb,
                                                     and replays, of FOLDER/online_retail as well
    python -m infra.bench.ablations --plans fusion   only tables whose title holds this text

Half an hour a seed on two cores (each row trains a model); answers are kept under the state
directory, and a run that breaks off goes on where it was. Tables that are not measured stay as they
are.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infra.bench import ablations_replay
from infra.bench.ablations_replay import Bench, ReplayPlan
from infra.bench.ablations_why import why
from infra.bench.accuracy_page import PACKAGES, TITLE, interval, sections_of
from infra.bench.machine import machine, told, versions
from infra.cli.settings import CliSettings
from infra.evaluation import ablations
from infra.evaluation.ablations.ranker import TorchCosine, Trained
from infra.evaluation.ablations.texts import RAW, as_it_comes, cleaned
from infra.evaluation.ablations.variants import AGAIN, OF_TEXTS, VARIANTS, Variant
from infra.evaluation.answers_file import read_answers, write_answers
from infra.evaluation.bar import question_bar
from infra.evaluation.evaluate import Embed
from infra.evaluation.figures import difference, facts_of, mean_ndcg
from infra.evaluation.ifdb import read_ifdb
from infra.evaluation.leave_one_out import leave_one_out
from infra.evaluation.load import load_interactions
from infra.evaluation.shelf_digest import shelf_digest
from infra.evaluation.task import Task
from infra.evaluation.text_vectors import TextVectors
from infra.evaluation.walk import Answers, walk
from ray_jobs import encoders
from ray_jobs.encoders.fit import nightly
from ray_jobs.nightly.settings import NightSettings

PAGE = Path(__file__).parents[1] / "decisions" / "ABLATIONS.md"

HEAD = """# Ablations

Regenerate: `python -m infra.bench.ablations --data FOLDER` (with `ifdb/` in it; without `--data`
MovieLens alone; `--plans TEXT` the tables whose title holds it). Each table says when it was
measured, and by what.

Each row changes one thing of what ships. The first tables: leave-one-out as in
`infra/bench/ACCURACY.md`, by the user vector alone (no fusion, so that a difference is the
encoder's); epochs are chosen on validation, which `validation` shows; nothing was chosen by the
test. "before the cut": replays of the days on which ACCURACY.md chooses, before its tests begin;
learned anew every 7 nights (weights of fusion on IFDB every 28), neural weights on the first night
alone.

"more" is NDCG@10 of the row less that of what ships: 95 %, paired bootstrap over users, 1,000
resamples, on the mean of the seeds. Rows of `window` use the shipped weights and read only the end
of a history.
"""


@dataclass(frozen=True)
class Plan:
    """One table. `seeds`: at least so many."""

    title: str
    data: str
    variants: Sequence[Variant]
    seeds: int = 1


LEFT_ONE_OUT = (
    Plan("MovieLens 100K", "ml-100k", VARIANTS),
    Plan("MovieLens 100K, three seeds", "ml-100k", AGAIN, seeds=3),
    Plan("IFDB, the texts that BERT reads", "ifdb", OF_TEXTS),
)
PLANS: tuple[Plan | ReplayPlan, ...] = (*LEFT_ONE_OUT, *ablations_replay.PLANS)


def table(plan: Plan, source: str, state_dir: Path, seeds: int, only_kept: bool) -> list[str]:
    """The section of one plan; rows that were not measured with all seeds are left out."""
    cache = state_dir / "evaluation"
    task = leave_one_out(load_interactions(source, state_dir))
    facts = facts_of(task)
    rows: dict[str, tuple[Variant, list[Answers], float]] = {}
    seeds, digest = max(seeds, plan.seeds), shelf_digest(encoders, ablations)
    trained: Trained = {}
    for variant in plan.variants:
        runs, validation = [], []
        for seed in range(seeds):
            name = f"{plan.data}_{_slug(variant.name)}_s{seed}_{digest}.npz"
            path = cache / "ablations" / name
            if not path.is_file():
                if only_kept:
                    continue
                tqdm.write(f"{plan.title}: {variant.name}, seed {seed}")
                path.parent.mkdir(parents=True, exist_ok=True)
                bert_IT = _embed(state_dir)(_texts(variant, task, source))
                ranker = _ranker(variant, seed, bert_IT, trained)
                answers = walk(task, ranker, question_bar(variant.name, task.steps.count))
                write_answers(path, answers, f"{ranker.validation:.4f}")
            answers, valid_ndcg = read_answers(path)
            runs.append(answers)
            validation.append(float(valid_ndcg))
        if len(runs) == seeds:
            rows[variant.name] = variant, runs, sum(validation) / len(validation)
    if plan.variants[0].name not in rows:
        return []
    told_by = f"{datetime.now(UTC).date()}, {machine()}; {told(versions(PACKAGES))}"
    lines = [f"{TITLE}{plan.title}", "", f"{task.steps.count:,} questions. {told_by}.", ""]
    lines += ["| | | NDCG@10 | by seed | more (95 %) | validation | fit s |", "|---" * 7 + "|"]
    shipped_Q = mean_ndcg(rows[plan.variants[0].name][1])
    for variant, runs, valid in rows.values():
        ndcg_Q = mean_ndcg(runs)
        more = ""
        if variant is not plan.variants[0]:
            more = interval(difference(facts, ndcg_Q, shipped_Q))
        seeds_told = ", ".join(f"{run.ndcg_Q.mean():.4f}" for run in runs)
        fit_s = sum(run.fit_s for run in runs) / len(runs)
        lines.append(
            f"| {variant.about} | {variant.name} | {ndcg_Q.mean():.4f} | {seeds_told} | {more} "
            f"| {valid:.4f} | {fit_s:.0f} |"
        )
    missing = [variant.name for variant in plan.variants if variant.name not in rows]
    return [*lines, "", *([f"Not measured yet: {', '.join(missing)}.", ""] if missing else [])]


def _ranker(
    variant: Variant, seed: int, bert_IT: NDArray[np.float32], trained: Trained
) -> TorchCosine:
    return TorchCosine(variant, nightly(seed), bert_IT, tqdm.write, trained)


def _texts(variant: Variant, task: Task, source: str) -> list[str]:
    texts_I = task.log.interactions.texts_I
    if variant.cleaning == RAW:
        texts_I = leave_one_out(read_ifdb(Path(source), as_it_comes)).log.interactions.texts_I
    return cleaned(texts_I, variant.cleaning)


def _embed(state_dir: Path) -> Embed:
    bert = NightSettings().bert_model or str(state_dir / "models" / "all-MiniLM-L6-v2")
    return TextVectors(state_dir / "evaluation", bert, tqdm.write).of


def _slug(name: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in name)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_AsWritten)
    parser.add_argument("--data", type=Path, help="holds ifdb/ and online_retail/")
    parser.add_argument("--seeds", type=int, default=1, help="so many of each row")
    parser.add_argument("--fresh", action="store_true", help="forget the answers of earlier runs")
    parser.add_argument("--kept", action="store_true", help="measure nothing: what is kept")
    parser.add_argument("--plans", default="", help="only tables whose title holds this text")
    arguments = parser.parse_args()
    state_dir = CliSettings().state_dir
    if arguments.fresh:
        shutil.rmtree(state_dir / "evaluation" / "ablations", ignore_errors=True)
    sections = dict(sections_of(PAGE.read_text(encoding="utf-8"))) if PAGE.is_file() else {}
    for plan in PLANS:
        if arguments.plans not in plan.title:
            continue
        source = plan.data
        if plan.data != "ml-100k":
            if arguments.data is None or not (arguments.data / plan.data).is_dir():
                continue
            source = str(arguments.data / plan.data)
        if isinstance(plan, ReplayPlan):
            bench = Bench(state_dir, _embed(state_dir), arguments.seeds, arguments.kept)
            lines = ablations_replay.table(plan, source, bench)
        else:
            lines = table(plan, source, state_dir, arguments.seeds, arguments.kept)
        if lines:
            sections[plan.title] = "\n".join(lines)
    PAGE.write_text(page_of(sections), encoding="utf-8")
    print(PAGE)


def page_of(sections: Mapping[str, str]) -> str:
    """Tables in the order of PLANS, and last what follows from them."""
    tables = {plan.title: sections[plan.title] for plan in PLANS if plan.title in sections}
    chosen = {plan.title for plan in LEFT_ONE_OUT}
    reasons = why({title: text for title, text in tables.items() if title in chosen})
    return "\n".join([HEAD, *tables.values(), reasons])


_AsWritten = argparse.RawDescriptionHelpFormatter


if __name__ == "__main__":
    main()
