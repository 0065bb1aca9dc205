"""The plots of `infra.bench.growth`: cost by items, by users, by delta, by length of history."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from infra.bench.growth_held import Held, expected
from infra.bench.growth_store import ByHistory, ByUsers
from infra.bench.growth_tables import CALCULATED, MB, MS, US
from infra.bench.report import PLOTS

try:
    from matplotlib.figure import Figure
except ImportError:
    HAS_MATPLOTLIB = False
else:
    HAS_MATPLOTLIB = True

Curve = Mapping[float, float]


def draw(
    path: Path,
    title: str,
    across: str,
    upward: str,
    curves: Mapping[str, Curve],
    dashed: Sequence[str] = (),
) -> str | None:
    """Write one plot; gives its name, None without matplotlib. `dashed`: curves that are calculated
    and not measured."""
    if not HAS_MATPLOTLIB:
        return None
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        line = "--" if name in dashed else "-"
        axes.plot(list(curve), list(curve.values()), line, marker="o", label=name)
    axes.set_xscale("symlog" if min(min(curve) for curve in curves.values()) == 0 else "log")
    axes.set_yscale("log")
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(upward)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path.name


def plots(
    tiny: Held,
    sizes: Sequence[Held],
    delta_s: dict[int, float],
    users: Sequence[ByUsers],
    histories: Sequence[ByHistory],
) -> tuple[str, ...]:
    """Draw all of them; gives their names."""
    by_formula = {
        float(items): expected(replace(tiny, ask=replace(tiny.ask, items=items))) / MB
        for items in (*(held.ask.items for held in sizes), CALCULATED)
    }
    drawn = [
        draw(
            PLOTS / "growth-memory.png",
            "Memory of a process with one generation",
            "items",
            "MB",
            {
                "measured": {h.ask.items: h.after.all / MB for h in sizes},
                "by the formula": by_formula,
            },
            dashed=("by the formula",),
        ),
        draw(
            PLOTS / "growth-search.png",
            "One search for 200 candidates",
            "items",
            "ms",
            {"p50": {h.ask.items: h.search_wall_s * MS for h in sizes}},
        ),
        draw(
            PLOTS / "growth-delta.png",
            "One search by changes since the night",
            "changed items",
            "ms",
            {"p50": {count: seconds * MS for count, seconds in delta_s.items()}},
        ),
        draw(
            PLOTS / "growth-users.png",
            "Snapshot read (SQLite)",
            "users",
            "us",
            {"p50": {row.users: row.read_s * US for row in users}},
        ),
        draw(
            PLOTS / "growth-history.png",
            "Read and fold of one user (SQLite)",
            "events",
            "us",
            {
                name: {row.events: getattr(row, field) * US for row in histories}
                for name, field in (
                    ("read of the last event", "tail_read_s"),
                    ("fold of the last event", "tail_fold_s"),
                    ("read of all", "whole_read_s"),
                    ("fold of all", "whole_fold_s"),
                )
            },
        ),
    ]
    return tuple(name for name in drawn if name is not None)
