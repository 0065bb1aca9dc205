"""Cost against items, users, changes since the night and length of histories; and whether the
sizing formula holds.

    python -m infra.bench.growth

Each size of catalog is made and held in processes of its own. See `sizing` for the formula.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from infra.bench.growth_floors import measured_floors
from infra.bench.growth_held import fitted, hold, run_module
from infra.bench.growth_plots import plots
from infra.bench.growth_served import served, with_lists
from infra.bench.growth_store import by_history, by_users
from infra.bench.growth_tables import (
    CALCULATED,
    MS,
    TINY,
    US,
    calculated,
    floors_table,
    growth_ratios,
    histories_table,
    items_table,
    memory_ratios,
    served_ratios,
    table_of,
)
from infra.bench.report import NO_PLOTS, Report, Size, run_bench
from infra.bench.sizing import generation_bytes


@dataclass(frozen=True)
class Plan:
    """What is measured at a size of the bench."""

    items: tuple[int, ...]
    delta_of: int
    deltas: tuple[int, ...]
    users: tuple[int, ...]
    histories: tuple[int, ...]
    rounds: int


PLANS: dict[Size, Plan] = {
    "full": Plan(
        items=(10_000, 30_000, 100_000, 300_000, 1_000_000),
        delta_of=100_000,
        deltas=(0, 100, 1_000, 5_000, 10_000, 30_000, 100_000),
        users=(1_000, 10_000, 100_000),
        histories=(10, 50, 200, 500, 1_000, 2_000),
        rounds=50,
    ),
    "small": Plan(
        items=(2_000, 30_000),
        delta_of=30_000,
        deltas=(0, 300),
        users=(100, 1_000),
        histories=(10, 100),
        rounds=10,
    ),
}


def measure(size: Size) -> Report:
    """See the module."""
    plan = PLANS[size]
    held, delta_s = [], {}
    for items in tqdm((TINY, *plan.items), desc="catalogs", unit="catalog"):
        with TemporaryDirectory(prefix="moonlark-growth-") as folder:
            held.append(hold(Path(folder), items))
            if items == plan.delta_of:
                told = json.loads(
                    run_module("infra.bench.delta_cost", folder, *map(str, plan.deltas))
                )
                delta_s = {int(count): seconds for count, seconds in told.items()}
    tiny, *sizes = held
    once = tiny.grown.private - generation_bytes(tiny.ask).private
    found_served = served()
    floors = with_lists(measured_floors(fitted(sizes), once), found_served)
    users = by_users(plan.users, plan.rounds)
    floors = replace(floors, event_bytes=users[-1].event_bytes)
    histories = by_history(plan.histories, plan.rounds)
    drawn = () if size == "small" else plots(tiny, sizes, delta_s, users, histories)
    ratios = (
        *memory_ratios(tiny, sizes, floors),
        *served_ratios(found_served, floors),
        *growth_ratios(sizes, users, delta_s, histories),
    )
    return Report(
        bench="growth",
        about=(
            "What more costs: generations of several sizes (made vectors of 128, texts of 384) "
            "each loaded, warmed and touched in a process of its own; the read and the fold of one "
            "list on SQLite; a replica on a real stack for memory that does not follow from bytes."
        ),
        ratios=ratios,
        tables=(
            items_table(tiny, sizes),
            calculated(sizes[-1].ask, floors),
            floors_table(floors, found_served),
            table_of(
                "By changes since the night",
                ("changed items", "search ms"),
                [(f"{count:,}", f"{seconds * MS:.3f}") for count, seconds in delta_s.items()],
            ),
            table_of(
                "By users (SQLite)",
                ("users", "snapshot read us", "database bytes an event"),
                [
                    (f"{row.users:,}", f"{row.read_s * US:.0f}", f"{row.event_bytes:.0f}")
                    for row in users
                ],
            ),
            histories_table(histories),
        ),
        notes=(
            f"Sizes of the catalog run one after the other, not in turn; of the delta (over "
            f"{plan.delta_of:,} items) in turn, of users in turn, and of histories in turn, tails "
            "and whole ones apart.",
            f"{CALCULATED:,} items are calculated, not measured.",
            "Memory is checked with the floors of `moonlark size`, not with this run's; mapped "
            f"pages count as touched. Below 10,000 items (the row of {TINY:,}) it says too much.",
            "The CPU of a list is that of `serve` under 16 clients at 100,000 items, its search by "
            "the formula apart; a search's is of a process that does nothing else.",
            *(() if drawn or size == "small" else (NO_PLOTS,)),
        ),
        plots=drawn,
    )


if __name__ == "__main__":
    run_bench("growth", measure)
