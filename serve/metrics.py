"""What a replica tells Prometheus of the live generation, beside what Ray and Serve tell of
themselves.

    moonlark_live_generation_age_seconds
    moonlark_live_generation_ndcg     on the hours kept from training (the gate's)
    moonlark_day_ndcg{of="live"}      the log of the last day that a night has looked back on, with
    moonlark_day_ndcg{of="frozen"}    live feedback and without, by the generation of that day
    moonlark_live_generation_parity_max_abs_diff    day against night, of a coordinate
    moonlark_delta_share              items of the delta, of those of the generation

Ray's exporter puts `ray_` before each name. Read from the registry by a thread, so that no request
waits for it. Without a live generation nothing is told.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Engine

from serve.generation_watch import GenerationWatch
from serve.loaded_generation import LoadedGeneration
from serve.periodic import Periodic
from sql import generations
from sql.engine import read_snapshot

log = logging.getLogger(__name__)

INTERVAL_S = 5.0

AGE = "moonlark_live_generation_age_seconds"
NDCG = "moonlark_live_generation_ndcg"
DAY_NDCG = "moonlark_day_ndcg"
PARITY = "moonlark_live_generation_parity_max_abs_diff"
DELTA_SHARE = "moonlark_delta_share"

DESCRIPTIONS = {
    AGE: "Since the live generation was made.",
    NDCG: "NDCG@10 of the live generation on the hours kept from its training.",
    DAY_NDCG: "NDCG@10 of the last day looked back on, with live feedback and without.",
    PARITY: "Largest difference of a user vector's coordinate, day against night.",
    DELTA_SHARE: "Items that changed since the night, of those of the live generation.",
}


class Reading(NamedTuple):
    """A gauge's value. `of`: its only tag, "" for none."""

    name: str
    value: float
    of: str = ""


Tell = Callable[[Reading], None]


class Metrics:
    """A thread that reads, and hands each reading to `tell`."""

    def __init__(
        self,
        engine: Engine,
        watch: GenerationWatch[LoadedGeneration],
        now_ms: Callable[[], int],
        tell: Tell,
    ) -> None:
        self._engine, self._watch, self._now_ms, self._tell = engine, watch, now_ms, tell
        self._rounds = Periodic("metrics", INTERVAL_S, self.look)

    def start(self) -> None:
        """Begin to tell."""
        self._rounds.start()

    def stop(self) -> None:
        """End the thread."""
        self._rounds.stop()

    def look(self) -> None:
        """One round."""
        with read_snapshot(self._engine) as conn:
            pointer = generations.read_live(conn)
            live = pointer and generations.get_generation(conn, pointer.generation_id)
            known = generations.list_generations(conn)
        if live is None:
            return
        for reading in (*_of_live(live, self._now_ms()), *_of_days(known)):
            self._tell(reading)
        held = self._watch.loaded.get(live.generation_id)
        if held is not None:
            share = held.view.delta.count / max(1, held.manifest.item_count)
            self._tell(Reading(DELTA_SHARE, share))


def _of_live(live: generations.Generation, now_ms: int) -> Iterator[Reading]:
    yield Reading(AGE, (now_ms - live.created_at_ms) / 1000)
    told = {NDCG: live.metrics.get("ndcg@10"), PARITY: live.metrics.get("parity_max_abs_diff")}
    for name, value in told.items():
        if isinstance(value, int | float):
            yield Reading(name, float(value))


def _of_days(known: Sequence[generations.Generation]) -> Iterator[Reading]:
    """A night looks back on the day of the generation that it replaces."""
    days = [generation for generation in known if "day" in generation.metrics]
    if days:
        day = max(days, key=lambda generation: generation.created_at_ms).metrics["day"]
        yield Reading(DAY_NDCG, float(day["ndcg@10"]), "live")
        yield Reading(DAY_NDCG, float(day["frozen_ndcg@10"]), "frozen")
