"""Events and histories as files for a peer, and the figure of the lists that it answers."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from infra.evaluation.interactions import Ints
from infra.evaluation.log import Log
from infra.evaluation.walk import CUTOFF

COLUMNS = ("user", "item", "row")


def write_events(path: Path, log: Log, rows: Ints) -> None:
    """CSV, an event a line in order of time; no text, rating or time goes over."""
    events = log.interactions
    _write(path, events.users_E[rows], events.items_E[rows], rows)


def write_histories(path: Path, log: Log, histories: Sequence[Ints]) -> None:
    """The same, where each history (rows) is a user by its number.

    Raises:
        ValueError: one of them is empty, and would have no list.
    """
    sizes = [len(history) for history in histories]
    if not all(sizes):
        raise ValueError(f"history {sizes.index(0)} is empty: a peer lists nothing for it")
    rows = np.concatenate(histories)
    _write(path, np.repeat(np.arange(len(histories)), sizes), log.interactions.items_E[rows], rows)


def _write(path: Path, *columns: Ints) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))


def ndcg_of_lists(answers: Ints, lists: Sequence[Sequence[int]]) -> float:
    """Mean NDCG@10 of lists, best first, with one right answer each; 0.0 of none.

    Raises:
        ValueError: not a list for each answer.
    """
    gains = [0.0] * len(answers)
    for number, (answer, items) in enumerate(zip(answers.tolist(), lists, strict=True)):
        if answer in items[:CUTOFF]:
            gains[number] = float(1 / np.log2(items.index(answer) + 2))
    return float(np.mean(gains)) if gains else 0.0
