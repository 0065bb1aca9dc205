"""The plot of `infra.bench.train`: NDCG@10 on the test by CPU seconds of training."""

from collections.abc import Mapping
from pathlib import Path

from infra.evaluation.rectools.curve import Curve

try:
    from matplotlib.figure import Figure
except ImportError:
    HAS_MATPLOTLIB = False
else:
    HAS_MATPLOTLIB = True


def draw(path: Path, title: str, curves: Mapping[str, Curve], target: float) -> str | None:
    """Write it; gives its name, None without matplotlib. `target` is drawn as a line."""
    if not HAS_MATPLOTLIB:
        return None
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        seconds = [point.cpu_s for point in curve]
        axes.plot(seconds, [point.test for point in curve], marker="o", markersize=3, label=name)
    axes.axhline(target, linestyle="--", linewidth=1, color="grey")
    axes.set_xscale("log")
    axes.set_title(title)
    axes.set_xlabel("CPU seconds of training, one thread")
    axes.set_ylabel("NDCG@10, test")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path.name
