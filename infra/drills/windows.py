"""Latencies by what went on meanwhile: an ordinary minute, a switch, the night's bulk writes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from infra.drills.night_worker import Span
from infra.drills.record import Kind, Timing

KINDS: tuple[Kind, ...] = ("recommend", "event")


@dataclass
class Windows:
    """When what happened. Ordinary: nothing but traffic."""

    ordinary: list[Span] = field(default_factory=list)
    switch: list[Span] = field(default_factory=list)
    bulk: list[Span] = field(default_factory=list)

    def figures(self, timings: Sequence[Timing]) -> dict[str, float | int | None]:
        """p50 and p99 in ms a kind and window; the ratio of a switch to the ordinary, and beside
        it that of one half of the ordinary to the other: what the machine itself makes of it."""
        found: dict[str, float | int | None] = {}
        for kind in KINDS:
            halves = [self.ordinary[0::2], self.ordinary[1::2]]
            calm = milliseconds(timings, kind, self.ordinary)
            switch = milliseconds(timings, kind, self.switch)
            found[f"{kind}_ordinary_n"], found[f"{kind}_switch_n"] = len(calm), len(switch)
            for name, values in (("ordinary", calm), ("switch", switch)):
                for at in (50, 99):
                    found[f"{kind}_p{at}_ms_{name}"] = percentile(values, at)
            found[f"{kind}_p99_ratio_switch"] = _ratio(percentile(switch, 99), percentile(calm, 99))
            a, b = (percentile(milliseconds(timings, kind, half), 99) for half in halves)
            found[f"{kind}_p99_ratio_a_a"] = _ratio(a, b)
        bulk = milliseconds(timings, "event", self.bulk)
        found["ack_bulk_n"] = len(bulk)
        found["ack_p99_ms_bulk_write"] = percentile(bulk, 99)
        found["ack_max_ms_bulk_write"] = round(max(bulk), 1) if bulk else None
        return found


def milliseconds(timings: Sequence[Timing], kind: Kind, spans: Sequence[Span]) -> list[float]:
    """How long each request of `kind` took that began in one of the spans."""
    return [
        t.seconds * 1000
        for t in timings
        if t.kind == kind and any(span.from_s <= t.at_s < span.to_s for span in spans)
    ]


def percentile(values: Sequence[float], at: int) -> float | None:
    """The percentile `at`, None of nothing."""
    return round(float(np.percentile(values, at)), 1) if values else None


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else round(a / b, 2)
