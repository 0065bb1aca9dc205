"""What the drills that kill have in common: a crowd of clients, rounds of harm, the record checked.

A round: harm is done, all recovers by itself or by what an operator does, then a calm moment. How
long nobody had an answer is reported, not judged.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from tqdm import tqdm

from infra.drills.checker import check
from infra.drills.figures import Figures, Options
from infra.drills.night_worker import Span
from infra.drills.record import Kind, Record, Timing
from infra.drills.shoppers import Crowd, Load
from infra.drills.stack import DrillStack
from infra.drills.victims import gateways, wait_for

ITEMS = 2_000
USERS = 2_000
REPLICAS = 2
WARM_UP_S = 3.0
CALM_S = 1.0
"""After a recovery, before the next round."""
PATIENT = Load(read_timeout_s=2.0, reads_may_fail=True)
"""Where nobody can answer for a while: events are tried again for a minute, lists for 2 s."""
NAMES: dict[Kind, str] = {"event": "events", "recommend": "lists"}


@dataclass
class Rounds:
    """Rounds on one stack. `harm` does one; it returns when what it broke is whole again."""

    stack: DrillStack
    harm: Callable[[int, np.random.Generator], None]
    load: Load = field(default_factory=Load)
    items: int = ITEMS
    spans: list[Span] = field(default_factory=list)

    def run(self, options: Options, rounds: int, figures: Figures, prefix: str = "") -> None:
        """`rounds` of them under a crowd; what was broken is counted into `figures`."""
        record = Record()
        rng = np.random.default_rng((options.seed, 77))
        with Crowd(self.stack.url, self.items, record, options.seed, self.load):
            time.sleep(WARM_UP_S)
            started_s = time.monotonic()
            bar = tqdm(range(rounds), figures.scenario, unit="round", disable=not options.progress)
            for number in bar:
                from_s = time.monotonic()
                self.harm(number, rng)
                self.spans.append(Span(from_s, time.monotonic()))
                time.sleep(CALM_S)
            ended_s = time.monotonic()
        check(record, self.stack.engine, self.stack.root, figures)
        figures.more |= {
            f"{prefix}{name}": value
            for name, value in self._measures(record, Span(started_s, ended_s)).items()
        }

    def _measures(self, record: Record, whole: Span) -> dict[str, float | int | None]:
        seconds = [span.to_s - span.from_s for span in self.spans]
        events = [a for a in record.timings if a.kind == "event" and a.is_answered]
        lists = [t for t in record.timings if t.kind == "recommend"]
        found: dict[str, float | int | None] = {
            "events_acked": len(record.acks),
            "events_acked_per_s": round(len(record.acks) / (whole.to_s - whole.from_s), 1),
            "event_longest_s": round(max((t.seconds for t in events), default=0.0), 2),
            "lists_answered": sum(t.is_answered for t in lists),
            "lists_missed_deadline": sum(not t.is_answered for t in lists),
            "recovered_s_median": round(float(np.median(seconds)), 2),
            "recovered_s_max": round(max(seconds), 2),
        }
        for kind, name in NAMES.items():
            silent = [_longest_silence(record.timings, kind, span) for span in self.spans]
            found[f"{name}_no_answer_s_median"] = round(float(np.median(silent)), 2)
            found[f"{name}_no_answer_s_max"] = round(max(silent), 2)
        return found


def whole_again(stack: DrillStack, gone: Sequence[int] = ()) -> None:
    """Wait until as many replicas as there shall be hold a lease, none of them among `gone`.

    Raises:
        TimeoutError: that did not come to be.
    """

    def is_whole() -> bool:
        living = gateways(stack)
        return len(living) >= REPLICAS and not any(pid in living for pid in gone)

    wait_for("all replicas", is_whole)


def _longest_silence(timings: Sequence[Timing], kind: Kind, span: Span) -> float:
    """The longest time in `span` in which no answer of that kind came, seconds."""
    ends = sorted(t.at_s + t.seconds for t in timings if t.kind == kind and t.is_answered)
    inside = [end for end in ends if span.from_s <= end <= span.to_s]
    edges = [span.from_s, *inside, span.to_s]
    return max(b - a for a, b in pairwise(edges))
