"""The text of ACCURACY.md: tables and plots, and by what they were measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.bench.machine import machine, told, versions

if TYPE_CHECKING:
    from infra.evaluation.over_http import OverHttp

PACKAGES = ("moonlark", "torch", "numpy", "scipy", "transformers", "implicit")
COLUMNS = {
    "ndcg@10": "NDCG@10",
    "hr@10": "HR@10",
    "mrr": "MRR",
    "coverage@10": "coverage@10",
    "diversity": "diversity",
    "warm": "warm items",
    "cold": "cold items",
    "known_users": "known users",
    "new_users": "new users",
}

TITLE = "## "
BY_CHANCE = "(may be chance)"

DIVERSITY_TITLES = {
    "ml-100k": "MovieLens 100K, what diversity costs",
    "ifdb": "IFDB, what diversity costs",
}
"""By data set: sections of `infra.bench.diversity_cost`."""

GATE_TITLE = "The gate"
"""The section of `infra.bench.gate_nights`."""

HEAD = """# Accuracy

Regenerate: `make accuracy DATA=FOLDER` (with `ifdb/` and `online_retail/` in it; without DATA
MovieLens alone). `python -m infra.bench.accuracy --data FOLDER --plans TEXT` measures some tables
and leaves the others as they are: each says when it was measured, and by what.

All items are ranked, never a sample. Of equal scores the first in the catalog is listed first. Of
equal times the first in the file comes first, in histories, splits and replays; but the night's own
gate and fusion take one time as one moment (what happened in it was not known before), and on
Online Retail a customer's minute is one question. Only the first event of a user-item pair counts.

Options (neighbours, ridge, factors, window and weight of popularity, epoch, weights of fusion) are
chosen on validation and never on the test: leave-one-out on each user's last event but one, replay
on the days before the cut. Every model gets the same histories. In a replay counts, neighbours,
EASE, ALS and histories are learned anew every 7 nights, neural weights as each section says. The
weight of a blend is that of the days before the cut for all of the test: chosen anew as often as
ours, by the same held-out events, it gave less (0.090 for 0.098 and 0.080 for 0.089 on Online
Retail, 0.072 for 0.076 on IFDB; `infra/decisions/LOG.md`).

Baselines choose among eight numbers of neighbours, eight decays and lengths of a history, five
ridges, nine settings of ALS, and blends among eight weights and three windows of recent popularity
(`infra/evaluation/registry.py`). Before 2026-11-30 it was four for sequential kNN and three for
EASE; where both were measured, the wider choice changed something on MovieLens (sequential kNN
0.108 for 0.096) and in IFDB's replay (with popularity 0.077 for 0.076; EASE and popularity 0.073
for 0.060), and nothing in IFDB's leave-one-out and on Online Retail.

Neural weights are learned without the newest events, by which their epoch is chosen (2,000, at most
20 of a user, at most a tenth: of IFDB's few events the last 314 days before the cut, of Online
Retail's the last two and a half), and on IFDB once for all of the test. That holds back
`moonlark-cosine` and `sasrec` there; RecTools' models are trained again with all events, and like
the others once.

Replays search by a product with all vectors, not by shards and a delta; that these give the same
lists is asked of a replica over HTTP, for a sample ("IFDB, replay, three seeds").

Some of the design was first looked at on the windows of the tests: which features fusion has, that
its weights are learned weekly, and that those of activity may be negative. (And that a blend keeps
the weight of the days before the cut, which gave the baselines more.) It was compared again on the
days before the cuts, which no test has (`infra/decisions/ABLATIONS.md`, "before the cut"), and
stands: the cosine pays on IFDB, activity, the whole history, weights that follow the season and
negative ones on Online Retail, what goes together (its three kinds at once) on both, and none costs
anything really on the other. Age, co-occurrence and linear neighbours by themselves, and the texts
of the last items differ by no more than may be chance there; they stay. Epochs and days between
trainings of the replays were set for the time of the machine; what epochs are worth under drift is
there, too. Tables of Online Retail that say 4 epochs were learned so; the command learns the
night's 12 now, and the fused list is as good with both.

What to know of the figures: in the replays of IFDB and Online Retail the user vector alone
(`moonlark-cosine`) loses to the best baselines; it is the fused list, which is the product, that
wins, and would nearly without the cosine: the rows of `moonlark-no-cosine` have 0.002 less on IFDB,
which may be chance, and nothing less on Online Retail; on MovieLens, where there is no drift and
nothing is new, 0.013, which is real. Live events add much on MovieLens and IFDB, nothing on Online
Retail (the sections "variants"). Newest first on IFDB gives 0.036 where the protocol's authors have
0.039, and popularity of the last 30 days 0.013 warm and 0.098 cold where they have 0.016 and 0.092:
not reproduced. Other orders within a day of publication, and days taken otherwise, came no nearer
than 0.037.

Intervals: 95 %, paired bootstrap over users, 1,000 resamples. "less" is NDCG@10 of the first model
less the row's: a row whose interval leaves 0 out differs really. "warm" and "cold": items with and
without events before the cut (for a basket: most of its items). fit: CPU seconds of one run, all
trainings together.

`moonlark-cosine` is the user vector alone, `moonlark` the fusion at re-ranking as it ships; it
counts activity to the millisecond, `moonlark-hourly` by the hour, as a replica does (a table of its
own: no difference), and `moonlark-no-cosine` has learned fusion without the cosine: what the user
vector is worth to the list. `sasrec-rectools` and `bert4rec-rectools` are those of RecTools 0.19 in
an environment of their own (it needs attrs < 24 and numpy < 2), each trained until held-out events
stop it, with one seed where no others are shown (a run takes ten CPU minutes and more). They list
100 items: what comes later has reciprocal rank 0. BERT4Rec takes the better of two settings by the
held-out events, in a table of its own, which was not measured yet: with the first setting and one
seed it had 0.077 on MovieLens (2026-11-29; moonlark's lists +0.0525, +0.0392 to +0.0664). In a
replay they learn when our own weights do, and their histories are live. On IFDB that took SASRec 47
CPU minutes (27 epochs until it stopped, and 12 again with all events); on Online Retail an epoch
took almost five, and it does not stop before the sixteenth: it has no row there. `sasrec` is our
own on torch's layers (full softmax), which can be trained on from night to night.
"""


@dataclass(frozen=True)
class Section:
    """One plan: its JSON (see `infra.evaluation.evaluate.as_json`) and the plots drawn."""

    title: str
    command: str
    training: str
    result: dict[str, Any]
    plots: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    """Models of the plan that were not measured, or not in all variants."""
    http: "OverHttp | None" = None


def page(
    sections: Sequence[Section], at: datetime, folder: Path, before: str, titles: Sequence[str]
) -> str:
    """The whole page, sections in the order of `titles`; those that were not measured now stay as
    they are in the page `before`. Plots are linked relative to `folder`."""
    made = {section.title: _section(section, at, folder) for section in sections}
    return page_with(made, before, titles)


def page_with(made: Mapping[str, str], before: str, titles: Sequence[str]) -> str:
    """The page `before` with sections that were `made` now, by title."""
    kept = dict(sections_of(before)) | dict(made)
    return "\n".join([HEAD, *(kept[title] for title in titles if title in kept)])


def sections_of(page: str) -> Iterator[tuple[str, str]]:
    """The sections of a page by title."""
    for text in page.split(f"\n{TITLE}")[1:]:
        yield text.partition("\n")[0], f"{TITLE}{text.rstrip()}\n"


def _section(section: Section, at: datetime, folder: Path) -> str:
    result = section.result
    seeds = len(result["seeds"])
    lines = [
        f"{TITLE}{section.title}",
        "",
        f"{result['questions']:,} questions; `{section.command}`; {section.training}"
        + (f"; mean of {seeds} seeds where a model has one." if seeds > 1 else "; seed 0.")
        + f" {at.date().isoformat()}, {machine()}; {told(versions(PACKAGES))}.",
        "",
    ]
    variants = result.get("variants", {})
    if len(variants) > 1:
        lines += _variants(variants, result["live_feedback"])
    else:
        lines += _models(result["models"])
    if section.missing:
        lines += [f"Not measured yet: {', '.join(section.missing)}.", ""]
    if section.http is not None:
        found = section.http
        lines += [
            "Over HTTP (`infra/evaluation/over_http.py`): after a night of the shipped steps at "
            f"the cut, the first {found.asked} lists of users with a history were asked of a "
            f"replica as well. {found.equal} are those of the replay, {found.tied} but for the "
            f"order of equal scores, {found.differ} differ; NDCG@10 {found.ndcg_http:.4f} and "
            f"{found.ndcg_replay:.4f}.",
            "",
        ]
    lines += [f"![{path.stem}]({path.relative_to(folder).as_posix()})" for path in section.plots]
    return "\n".join(lines).rstrip() + "\n"


def _models(models: dict[str, dict[str, Any]]) -> list[str]:
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in models.values())]
    titles = ["model", *(COLUMNS[name] for name in shown), "less (95 %)", "fit s", "chosen"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, row in models.items():
        cells = ["" if row.get(figure) is None else f"{row[figure]:.4f}" for figure in shown]
        less = interval(row["difference"]) if "difference" in row else ""
        cells += [less, f"{row['fit_s']:.0f}", row["chosen"]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    spread = [
        f"{name} {', '.join(f'{figure:.4f}' for figure in row['by_seed'])}"
        for name, row in models.items()
        if len(row["by_seed"]) > 1
    ]
    return [*lines, "", *([f"NDCG@10 by seed: {'; '.join(spread)}.", ""] if spread else [])]


def _variants(
    variants: dict[str, dict[str, dict[str, Any]]], gains: dict[str, dict[str, Any]]
) -> list[str]:
    models = list(dict.fromkeys(name for table in variants.values() for name in table))
    titles = ["model", *variants, "live feedback adds to the nights (95 %)"]
    lines = ["NDCG@10:", "", "| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name in models:
        cells = [
            f"{table[name]['ndcg@10']:.4f}" if name in table else "" for table in variants.values()
        ]
        gain = interval(gains[name]) if name in gains else ""
        lines.append(f"| {name} | " + " | ".join([*cells, gain]) + " |")
    first = next(iter(gains), None)
    if first is not None:
        hours = gains[first]["by_hour"]
        told = " ".join("-" if hour is None else f"{hour:+.3f}" for hour in hours)
        lines += ["", f"What it adds to {first} by hour of the day (UTC, 0 to 23): {told}"]
    return [*lines, ""]


def interval(found: dict[str, Any]) -> str:
    """A difference as the tables show it."""
    mark = "" if found["is_real"] else f" {BY_CHANCE}"
    return f"{found['mean']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f}){mark}"
