"""Step 1, second part. What was exported is looked at before anything is trained on it.

A client that sends everything twice, a clock in the future, a catalog that was half deleted, a
robot: each ends in a worse model that no error names. So each check here has a figure (in the
report, and with the generation's metrics), a bound (a setting `check_...`), and a sentence for the
on-call. What is live stays live meanwhile.

A mistake of one day is a small share of a long log. So duplicates, impossible times and unknown
items are judged of the whole log and of each new day: of receipt, back to where the log of the live
generation ends, and at least the last one. The figure is the worst of these shares. A day that was
refused is new until a night is published, so that it does not pass diluted some nights later. What
was taken back (an undo, a re-rating) is learned by no model and judged by no check.

Shapes: E events, D days. Run: python -m ray_jobs.nightly.check --generation ID
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_jobs.encoders.item_text import clean
from ray_jobs.nightly.histories import LIVE_MS, NONE, effective_rows
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, main
from ray_jobs.nightly.workspace import DataRefused, Workspace
from sql import generations
from sql.engine import read_snapshot
from sql.generations import WATERMARK

DAY_MS = 86_400_000
DAYS = 7
"""Before the last one: what its volume is compared with."""
MIN_DAYS = 3
"""Of them with any event; a younger shop has no usual volume."""
AHEAD_MS = 3_600_000
"""A phone's clock may be so far ahead; further is a wrong unit or a wrong clock."""
EARLIEST_MS = 631_152_000_000
"""1990-01-01 UTC: before the Web. Seconds that were taken for milliseconds are of January 1970."""
SEEN = -1
"""In place of a day: of an event that is not of a new one."""
WORST = "of all or of the worst new day"
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
    since_ms = min(as_of_ms - DAY_MS, _learned_until_ms(night, as_of_ms))
    bounds = judge(night.workspace, night.settings, as_of_ms, since_ms)
    figures = {bound.figure: bound.value for bound in bounds}
    # Before it is refused: whoever is called looks at the figures then.
    generations.add_metrics(night.engine, night.generation_id, figures)
    broken = [bound.sentence() for bound in bounds if bound.is_broken]
    if broken:
        raise DataRefused("; ".join(broken), hint=RUNBOOK)
    return {**figures, "events": exported["events"]}


def _learned_until_ms(night: Night, as_of_ms: int) -> int:
    """Up to which receipt the live generation read the log; 0 where nothing is live."""
    with read_snapshot(night.engine) as conn:
        live = generations.read_live(conn)
        if live is None:
            return 0
        found = generations.get_generation(conn, live.generation_id)
    assert found is not None, "what is live is registered"
    until_ms: int = found.metrics.get(WATERMARK, {}).get("received_until_ms", as_of_ms)
    return until_ms


def judge(workspace: Workspace, settings: NightSettings, now_ms: int, since_ms: int) -> list[Bound]:
    """All checks, those that hold too. `since_ms`: what was received after it is of a new day."""
    events = _effective(pq.read_table(workspace.events))
    known = pq.read_table(workspace.items, columns=["ordinal"])["ordinal"]
    day_E = _new_days(events, now_ms, since_ms)
    volume, last_day_E = _volume(events, now_ms, settings.check_min_events)
    day = events.filter(pa.array(last_day_E))
    by_user = _largest_share(day["user_key"], settings.check_min_events)
    by_item = _largest_share(day["ordinal"], settings.check_min_events)
    return [
        Bound(
            "check_max_duplicates",
            _worst(_repeats(events), day_E, settings.check_min_events),
            settings.check_max_duplicates,
            f"share of events that repeat an earlier one, {WORST}",
        ),
        Bound(
            "check_max_impossible_times",
            _worst(_impossible(events), day_E, settings.check_min_events),
            settings.check_max_impossible_times,
            f"share of events that occurred after they were received, or before 1990, {WORST}",
        ),
        Bound(
            "check_max_unknown_items",
            _unknown_items(events, known, day_E, settings.check_min_events),
            settings.check_max_unknown_items,
            f"share of events on items that the catalog does not have, {WORST}",
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


def _effective(events: pa.Table) -> pa.Table:
    """Without undos and what was taken back."""
    counted_E = effective_rows(
        events["user_key"].to_numpy(),
        events["user_seq"].to_numpy(),
        events["kind"].to_numpy(),
        pc.fill_null(events["undoes_seq"], NONE).to_numpy(),
    )
    return events.filter(pa.array(counted_E))


def _new_days(events: pa.Table, now_ms: int, since_ms: int) -> NDArray[np.int64]:
    """(E,) the day of each event's receipt, 0 the last one, 1 that before it; SEEN."""
    received_E = events["received_at_ms"].to_numpy()
    day_E = np.maximum(0, (now_ms - received_E) // DAY_MS)
    return np.where(received_E > since_ms, day_E, SEEN)


def _worst(wrong_E: NDArray[np.bool_], day_E: NDArray[np.int64], at_least: int) -> float | None:
    """Share of what is wrong: of all, or of the worst new day of `at_least` events. A day of fewer
    is not judged by itself: a handful of wrong ones would be a large share of it."""
    if len(wrong_E) < max(1, at_least):
        return None
    days = day_E[day_E != SEEN]
    total_D = np.bincount(days)
    wrong_D = np.bincount(days, weights=wrong_E[day_E != SEEN])
    judged_D = total_D >= max(1, at_least)
    of_days = wrong_D[judged_D] / total_D[judged_D]
    return float(max(wrong_E.mean(), of_days.max(initial=0.0)))


def _repeats(events: pa.Table) -> NDArray[np.bool_]:
    """(E,) whether an event before it in the log says the same."""
    rows = events.select(SAME).append_column("row", pa.array(np.arange(len(events))))
    firsts = rows.group_by(SAME).aggregate([("row", "min")])["row_min"].to_numpy()
    repeats_E = np.ones(len(events), np.bool_)
    repeats_E[firsts] = False
    return repeats_E


def _impossible(events: pa.Table) -> NDArray[np.bool_]:
    occurred_E = events["occurred_at_ms"].to_numpy()
    received_E = events["received_at_ms"].to_numpy()
    wrong_E: NDArray[np.bool_] = (occurred_E >= received_E + AHEAD_MS) | (occurred_E < EARLIEST_MS)
    return wrong_E


def _unknown_items(
    events: pa.Table, known: pa.ChunkedArray, day_E: NDArray[np.int64], at_least: int
) -> float | None:
    """Of no new day is what occurred longer ago: a history that is brought in names many items that
    are gone, and counts among all."""
    age_E = events["received_at_ms"].to_numpy() - events["occurred_at_ms"].to_numpy()
    on_items_E = pc.is_valid(events["item_id"]).to_numpy()
    has_E = pc.fill_null(pc.is_in(events["ordinal"], value_set=known.combine_chunks()), False)
    of_day_E = np.where(age_E <= DAY_MS, day_E, SEEN)
    return _worst(~has_E.to_numpy()[on_items_E], of_day_E[on_items_E], at_least)


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
