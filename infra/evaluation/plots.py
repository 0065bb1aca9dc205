"""Plots of a table: accuracy by history length, by item age, by hours since the last night.

matplotlib is in the extra `[evaluation]`. Q = questions.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.errors import NotHere
from infra.evaluation.evaluate import Row, Table
from infra.evaluation.figures import mean_ndcg

try:
    from matplotlib.figure import Figure
except ImportError:
    HAS_MATPLOTLIB = False
else:
    HAS_MATPLOTLIB = True

OPEN = 1e6
HISTORY = (0.0, 1.0, 3.0, 6.0, 11.0, 21.0, 51.0, 101.0, 201.0, OPEN)
AGE_DAYS = (0.0, 1.0, 3.0, 7.0, 30.0, 90.0, 365.0, 1825.0, OPEN)
HOURS = tuple(range(0, 25, 3))
FEWEST = 20
"""Questions in a bin: fewer are not drawn."""

Bins = Sequence[float]


def require_matplotlib() -> None:
    """Raises NotHere where it is missing."""
    if not HAS_MATPLOTLIB:
        raise NotHere("--plot", "matplotlib is missing", "pip install -e '.[evaluation]'")


def draw(
    table: Table, folder: Path, stem: str, models: Collection[str] | None = None
) -> list[Path]:
    """Write the three plots of the table as PNG; gives their paths. `models`: None for all.

    Raises:
        NotHere: matplotlib is not installed.
    """
    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    facts = table.facts
    hours_Q = facts.at_ms_Q / 3_600_000 % 24
    kinds: tuple[tuple[str, str, NDArray[np.floating], Bins], ...] = (
        (
            "history",
            "events of the user before the question",
            facts.history_Q.astype(float),
            HISTORY,
        ),
        ("age", "days since the item came", facts.age_days_Q, AGE_DAYS),
        ("hours", "hours since the last night (midnight UTC)", hours_Q, HOURS),
    )
    rows = [row for row in table.rows if models is None or row.name in models]
    return [
        _lines(table, rows, values_Q, bins, label, folder / f"{stem}-{name}.png")
        for name, label, values_Q, bins in kinds
    ]


def _lines(
    table: Table,
    rows: Sequence[Row],
    values_Q: NDArray[np.floating],
    bins: Bins,
    label: str,
    path: Path,
) -> Path:
    names = [_name(low, high) for low, high in pairwise(bins)]
    places_Q = np.digitize(values_Q, bins) - 1  # NaN: behind the last bin
    counts = np.bincount(np.clip(places_Q, 0, len(names)), minlength=len(names) + 1)[: len(names)]
    drawn = np.flatnonzero(counts >= FEWEST)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        ndcg_Q = mean_ndcg(row.runs)
        means = [float(ndcg_Q[places_Q == place].mean()) for place in drawn]
        axes.plot(range(len(drawn)), means, marker="o", label=row.name)
    ticks = [f"{names[place]}\n({counts[place]})" for place in drawn]
    axes.set_xticks(range(len(drawn)), ticks, fontsize=8)
    axes.set_xlabel(f"{label} (questions)")
    axes.set_ylabel(f"NDCG@{table.k}")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{table.task.log.interactions.name}, {table.variant}")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=80)
    return path


def _name(low: float, high: float) -> str:
    """ "0 to 1"; the last bin is open."""
    return f"{low:g}+" if high >= OPEN else f"{low:g} to {high:g}"
