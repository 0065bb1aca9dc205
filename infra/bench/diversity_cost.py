"""What the dial `diversity` costs: lists of the fused model, re-ordered, in ACCURACY.md.

    python -m infra.bench.diversity_cost                  MovieLens 100K
    python -m infra.bench.diversity_cost --data FOLDER    and FOLDER/ifdb

Trained once a data set (three minutes of CPU each); every list is then ordered at each dial.

Shapes: Q questions, I items, D dim, T text_dim, K list length.
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infra.bench.accuracy import PAGE, TITLES
from infra.bench.accuracy_page import (
    DIVERSITY_TITLES,
    PACKAGES,
    TITLE,
    interval,
    page_with,
)
from infra.bench.machine import machine, told, versions
from infra.cli.settings import CliSettings
from infra.evaluation.bar import question_bar
from infra.evaluation.figures import difference, diversity, facts_of
from infra.evaluation.interactions import Ints
from infra.evaluation.leave_one_out import leave_one_out
from infra.evaluation.load import load_interactions
from infra.evaluation.rankers.fused import Fused
from infra.evaluation.rankers.moonlark import Moonlark
from infra.evaluation.task import Ranker, Task
from infra.evaluation.text_vectors import TextVectors
from infra.evaluation.walk import CUTOFF, Progress, first_items, listed, score
from ray_jobs.encoders.fit import nightly
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.ranking.diversity import POOL, diverse_order

DIALS = (0.0, 0.1, 0.3, 0.5)


class Dialled:
    """Lists at one dial, by question."""

    def __init__(self, questions: int) -> None:
        self.ndcg_Q = np.zeros(questions)
        self.lists_QK = np.full((questions, CUTOFF), -1, np.int64)


def diverse(scores_I: NDArray[np.float64], vectors_ID: NDArray[np.float32], dial: float) -> Ints:
    """The first K of a list, in the order that the API gives it at this dial."""
    pool = first_items(scores_I, POOL)
    pool = pool[pool >= 0]
    if dial:  # at 0 the API does not ask
        scores_N = scores_I[pool].astype(np.float32)
        pool = pool[diverse_order(scores_N, vectors_ID[pool], dial)]
    first = pool[:CUTOFF]
    return np.pad(first, (0, CUTOFF - len(first)), constant_values=-1)


def walked(
    task: Task,
    ranker: Ranker,
    cosine: Moonlark,
    progress: Progress = lambda count: None,
) -> dict[float, Dialled]:
    """Each question once, its list at each dial. `cosine` has the items' vectors."""
    found = {dial: Dialled(task.steps.count) for dial in DIALS}
    row = 0
    for lesson, questions in task.steps:
        ranker.fit(task.log, lesson)
        for question in questions:
            scores_I = listed(np.asarray(ranker.scores(task.log, question)), question)
            for dial, lists in found.items():
                list_K = diverse(scores_I, cosine.items_ID, dial)
                lists.lists_QK[row] = list_K
                lists.ndcg_Q[row] = score(scores_I, list_K, question.relevant)[0]
            row += 1
            progress(1)
    return found


def section(
    title: str, task: Task, found: dict[float, Dialled], bert_IT: NDArray[np.float32]
) -> str:
    """Of the page: a row a dial."""
    facts = facts_of(task)
    lines = [
        f"{TITLE}{title}",
        "",
        f"{task.steps.count:,} questions; `python -m infra.bench.diversity_cost --data FOLDER`; "
        "lists of `moonlark`, seed 0, trained once and ordered anew by "
        f"`ray_jobs/ranking/diversity.py`. {datetime.now(UTC).date().isoformat()}, {machine()}; "
        f"{told(versions(PACKAGES))}.",
        "",
        "| `diversity` | NDCG@10 | more than at 0 (95 %) | diversity of the lists |",
        "|---|---|---|---|",
    ]
    plain_Q = found[DIALS[0]].ndcg_Q
    for dial, lists in found.items():
        more = interval(difference(facts, lists.ndcg_Q, plain_Q)) if dial else ""
        spread = diversity(lists.lists_QK, bert_IT)
        lines.append(f"| {dial:g} | {lists.ndcg_Q.mean():.4f} | {more} | {spread:.4f} |")
    return "\n".join(lines) + "\n"


def _measured(title: str, source: str, state_dir: Path) -> str:
    cache = state_dir / "evaluation"
    task = leave_one_out(load_interactions(source, state_dir))
    bert = NightSettings().bert_model or str(state_dir / "models" / "all-MiniLM-L6-v2")
    bert_IT = TextVectors(cache, bert, tqdm.write).of(task.log.interactions.texts_I)
    cosine = Moonlark(nightly(0), bert_IT, cache, tqdm.write)
    found = walked(task, Fused(cosine, cosine), cosine, question_bar(title, task.steps.count))
    return section(title, task, found, bert_IT)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and put the sections into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_AsWritten)
    parser.add_argument("--data", type=Path, help="holds ifdb/")
    data: Path | None = parser.parse_args(arguments).data
    state_dir = CliSettings().state_dir
    for name, title in DIVERSITY_TITLES.items():
        source = name if data is None or name == "ml-100k" else str(data / name)
        if name != "ml-100k" and not Path(source).is_dir():
            continue
        made = {title: _measured(title, source, state_dir)}
        before = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page_with(made, before, TITLES), encoding="utf-8")
    print(PAGE)


_AsWritten = argparse.RawDescriptionHelpFormatter


if __name__ == "__main__":
    main()
