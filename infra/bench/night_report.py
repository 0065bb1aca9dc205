"""What `infra.bench.night` says of the nights that it timed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.bench.report import Ratio, Report, Table

WORKERS = 2
NEXT_TO_NOTHING = 0.01
SHARED = ("embed", "train")
"""Steps that several workers share by setting."""
FLOORS = {
    "export": "every row read by sqlite3",
    "embed": "texts embedded / (texts/s of BERT alone x workers; a few: one)",
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


def report(plan: Plan, nights: Sequence[NightTimes], shared: Sequence[NightTimes]) -> Report:
    first, second, made = nights
    return Report(
        bench="night",
        about=(
            f"The steps of `moonlark night` on one local Ray cluster with {WORKERS} workers: "
            f"{plan.texts:,} items (MovieLens titles repeated with changes), then 1 % of the "
            f"texts changed, and {plan.made:,} items with made vectors. Each step beside its "
            "floor, measured in the same process before the publish."
        ),
        ratios=(*ratios(first, second, made), *speed_ups(*shared)),
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
            "Libraries are imported before the steps are timed, those that BERT needs as well.",
            "The gate refuses nothing here, whatever it measures; no replica is waited for.",
            f"Workers share embed and train; measured with {plan.shared_texts:,} texts.",
        ),
    )


def ratios(first: NightTimes, second: NightTimes, made: NightTimes) -> list[Ratio]:
    unchanged = second.reports["embed"]["reused"]
    new_s = first.seconds["embed"] / first.reports["embed"]["embedded"]
    kept_s = max(0.0, second.seconds["embed"] - second.floors["embed"]) / unchanged
    found = [
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
        Ratio(
            name="the whole first night",
            value=sum(first.seconds.values()) / sum(first.floors.values()),
            of="all steps / the sum of the floors; steps without a floor count above alone",
        ),
        Ratio(name="embed", value=first.ratio("embed"), of=f"the step / {FLOORS['embed']}"),
    ]
    for step in ("export", "build", "fuse", "fold", "evaluate", "publish"):
        if made.floors[step] > 0:
            name = f"{step}, made vectors"
            found.append(Ratio(name=name, value=made.ratio(step), of=f"the step / {FLOORS[step]}"))
    return found


def speed_ups(one: NightTimes, two: NightTimes) -> list[Ratio]:
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
