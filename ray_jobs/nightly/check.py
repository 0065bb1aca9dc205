"""Step 1, second part. What was exported is looked at before anything is trained on it.

A client that sends everything twice, a clock in the future, a catalog that was half deleted, a
robot: each ends in a worse model that no error names. So each check here has a figure (in the
report, and with the generation's metrics), a bound (a setting `check_...`), and a sentence for the
on-call. What is live stays live meanwhile.

Shapes: E events. Run: python -m ray_jobs.nightly.check --generation ID
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_jobs.encoders.config import UNDO
from ray_jobs.encoders.item_text import clean
from ray_jobs.nightly.histories import LIVE_MS
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, main
from ray_jobs.nightly.workspace import DataRefused, Workspace
from sql import generations

DAY_MS = 86_400_000
DAYS = 7
"""Before the last one: what its volume is compared with."""
MIN_DAYS = 3
"""Of them with any event; a younger shop has no usual volume."""
AHEAD_MS = 3_600_000
"""A phone's clock may be so far ahead; further is a wrong unit or a wrong clock."""
RUNBOOK = "infra/runbooks/NightDataRefused.md"
SAME = ["user_key", "kind", "ordinal", "text", "value", "occurred_at_ms"]
"""Columns in which two events that are one agree; the log keeps ids apart, not deeds."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The figure of one check, and what it may be. `value` None: there was too little to judge."""

    name: str
    value: float | None
    limit: float
    meaning: str
    at_least: bool = False

    @property
    def is_broken(self) -> bool:
        if self.value is None:
            return False
        return self.value < self.limit if self.at_least else self.value > self.limit

    @property
    def figure(self) -> str:
        """Its name in the report: `check_duplicates`."""
        return self.name.replace("_max_", "_").replace("_min_", "_")

    def sentence(self) -> str:
        """For the on-call."""
        side = "at least" if self.at_least else "at most"
        setting = f"MOONLARK_{self.name.upper()}"
        return f"{self.meaning}: {self.value:.4g}, {side} {self.limit:g} is accepted ({setting})"


def check(night: Night) -> Report:
    """Figures of the exported data.

    Raises:
        DataRefused: names each check that is out of its bounds, its figure and its limit.
    """
    exported = night.workspace.require_report("export")
    as_of_ms = exported.get("as_of_ms", exported["created_at_ms"])
    bounds = judge(night.workspace, night.settings, as_of_ms)
    figures = {bound.figure: bound.value for bound in bounds}
    # Before it is refused: whoever is called looks at the figures then.
    generations.add_metrics(night.engine, night.generation_id, figures)
    broken = [bound.sentence() for bound in bounds if bound.is_broken]
    if broken:
        raise DataRefused("; ".join(broken), hint=RUNBOOK)
    return {**figures, "events": exported["events"]}


def judge(workspace: Workspace, settings: NightSettings, now_ms: int) -> list[Bound]:
    """All checks, those that hold too."""
    events = pq.read_table(workspace.events)
    known = pq.read_table(workspace.items, columns=["ordinal"])["ordinal"]
    enough = len(events) >= settings.check_min_events
    volume, last_day_E = _volume(events, now_ms, settings.check_min_events)
    day = events.filter(pa.array(last_day_E))
    by_user = _largest_share(day["user_key"], settings.check_min_events)
    by_item = _largest_share(day["ordinal"], settings.check_min_events)
    return [
        Bound(
            "check_max_duplicates",
            _duplicates(events) if enough else None,
            settings.check_max_duplicates,
            "share of events that repeat another one",
        ),
        Bound(
            "check_max_impossible_times",
            _impossible_times(events) if enough else None,
            settings.check_max_impossible_times,
            "share of events that occurred after they were received, or before 1970",
        ),
        Bound(
            "check_max_unknown_items",
            _unknown_items(events, known) if enough else None,
            settings.check_max_unknown_items,
            "share of events on items that the catalog does not have",
        ),
        Bound(
            "check_max_empty_texts",
            _empty_texts(workspace, settings.check_min_events),
            settings.check_max_empty_texts,
            "share of items without a text",
        ),
        Bound(
            "check_min_volume",
            volume,
            settings.check_min_volume,
            "events of the last day over the median of the week before",
            at_least=True,
        ),
        Bound(
            "check_max_volume",
            volume,
            settings.check_max_volume,
            "events of the last day over the median of the week before",
        ),
        Bound(
            "check_max_user_share",
            by_user,
            settings.check_max_user_share,
            "share of the last day's events that are of one user",
        ),
        Bound(
            "check_max_item_share",
            by_item,
            settings.check_max_item_share,
            "share of the last day's events that are on one item",
        ),
    ]


def _duplicates(events: pa.Table) -> float:
    deeds = events.filter(pc.not_equal(events["kind"], UNDO)).select(SAME)
    if not len(deeds):
        return 0.0
    different = deeds.group_by(SAME).aggregate([])
    return 1.0 - len(different) / len(deeds)


def _impossible_times(events: pa.Table) -> float:
    occurred_E = events["occurred_at_ms"].to_numpy()
    received_E = events["received_at_ms"].to_numpy()
    wrong_E = (occurred_E >= received_E + AHEAD_MS) | (occurred_E < 0)
    return float(wrong_E.mean())


def _unknown_items(events: pa.Table, known: pa.ChunkedArray) -> float:
    on_items = events.filter(pc.is_valid(events["item_id"]))
    if not len(on_items):
        return 0.0
    has_E = pc.fill_null(pc.is_in(on_items["ordinal"], value_set=known.combine_chunks()), False)
    return 1.0 - float(pc.mean(has_E).as_py())


def _empty_texts(workspace: Workspace, at_least: int) -> float | None:
    digests = pq.read_table(workspace.items, columns=["text_digest"])["text_digest"]
    if len(digests) < at_least:
        return None
    texts = pq.read_table(workspace.texts)
    empty = [
        digest
        for digest, text in zip(
            texts["text_digest"].to_pylist(), texts["text"].to_pylist(), strict=True
        )
        if not clean(text or "").strip()
    ]
    has_none = pc.is_in(digests, value_set=pa.array(empty, pa.string()))
    return float(pc.mean(has_none).as_py())


def _volume(events: pa.Table, now_ms: int, at_least: int) -> tuple[float | None, NDArray[np.bool_]]:
    """The last day's events over the median of the days before; which events (E,) are its.

    Events of the day alone: a history that was brought in yesterday is no day's traffic.
    """
    received_E = events["received_at_ms"].to_numpy()
    of_the_day_E = received_E - events["occurred_at_ms"].to_numpy() <= LIVE_MS
    age_E = (now_ms - received_E) // DAY_MS
    last_day_E = of_the_day_E & (age_E <= 0)
    counted_E = of_the_day_E & (age_E >= 1) & (age_E <= DAYS)
    counts = np.bincount(age_E[counted_E].astype(np.int64), minlength=DAYS + 1)[1:]
    counts = counts[counts > 0]
    if len(counts) < MIN_DAYS or np.median(counts) < at_least:
        return None, last_day_E
    return float(last_day_E.sum() / np.median(counts)), last_day_E


def _largest_share(column: pa.ChunkedArray, at_least: int) -> float | None:
    """Of the value that stands there most often."""
    there = pc.drop_null(column)
    if len(column) < at_least or not len(there):
        return None
    counts = pc.value_counts(there.combine_chunks()).field("counts")
    return float(pc.max(counts).as_py()) / len(column)


if __name__ == "__main__":
    main("check", check)
