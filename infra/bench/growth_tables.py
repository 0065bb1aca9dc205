"""Ratios and tables of `infra.bench.growth`, from what was measured."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from infra.bench import sizing
from infra.bench.growth_held import Held, expected, expected_growth
from infra.bench.growth_served import Served
from infra.bench.growth_store import ByHistory, ByUsers
from infra.bench.held_memory import SEEN
from infra.bench.report import Ratio, Table

TINY = 1_000
"""Items of the generation that tells what a process costs beside what it holds."""
CALCULATED = 10_000_000
WITHIN = 0.15
MB, MS, US = 1e6, 1e3, 1e6


def memory_ratios(tiny: Held, sizes: Sequence[Held], floors: sizing.Floors) -> list[Ratio]:
    """The formula, with the floors of `moonlark size`, by what was measured: what the items add,
    own and mapped apart. `floors`: of this run, for the CPU."""
    added = []
    for held in sizes:
        formula, items = expected_growth(held), f"{held.ask.items:,} items"
        told = "by the formula / measured, of a process that had no generation"
        added += [
            _within(f"own memory that {items} add", formula.private / held.grown.private, told),
            _within(f"mapped memory that {items} add", formula.mapped / held.grown.mapped, told),
        ]
    for held in sizes:
        one, items = sizing.generation_bytes(held.ask), f"{held.ask.items:,} items"
        added.append(
            _within(
                f"a second generation of {items}",
                one.all / held.grown_again.all,
                "all memory by the formula / that it added to the process with the first",
            )
        )
    of_process = [
        Ratio(
            name=f"a process with {held.ask.items:,} items",
            value=expected(held) / held.after.all,
            of="what it had before, measured, and the formula / all its memory",
        )
        for held in sizes
    ]
    largest = sizes[-1]
    asked = replace(largest.ask, seen=SEEN)
    cpu_s = floors.search_cpu_s + sizing.search_bytes(largest.ask) * floors.byte_cpu_s
    return [
        *added,
        *of_process,
        _within(
            "a user in the session cache",
            sizing.cached_session_bytes(asked) / tiny.session_bytes,
            f"by the formula / measured, {SEEN} items seen",
        ),
        Ratio(
            name="CPU of a search",
            value=cpu_s / largest.search_cpu_s,
            of=f"fitted / measured at {largest.ask.items:,} items",
        ),
    ]


def served_ratios(served: Sequence[Served], floors: sizing.Floors) -> list[Ratio]:
    """The formula by what the last full `serve` measured: as `moonlark size` has it for memory,
    with this run's floors for CPU."""
    ratios = []
    for found in served:
        expected, items = found.expected(), f"{found.ask.items:,} items"
        ratios += [
            _within(
                f"own memory of the gateways of `serve`, {items}",
                expected.private / found.private,
                f"by the formula, with a session a list / {found.gateways} after their load",
            ),
            Ratio(
                name=f"pages of files that these read, {items}",
                value=found.mapped / expected.mapped,
                of="measured / by the formula, which counts all",
            ),
        ]
    if len(served) > 1:  # the smallest says what all but the search costs
        small, large = served[0], served[-1]
        slower = large.noop_cpu_s / small.noop_cpu_s
        ratios.append(
            _within(
                f"CPU of a list of `serve`, {large.ask.items:,} items",
                sizing.size(large.ask, floors).list_cpu_s * slower / large.list_cpu_s,
                f"by the formula from {small.ask.items:,} items, times what the no-op cost beside "
                "each / measured, 16 clients",
            )
        )
    return ratios


def _within(name: str, value: float, of: str) -> Ratio:
    return Ratio(name=name, value=value, of=of, at_least=1 - WITHIN, at_most=1 + WITHIN)


def growth_ratios(
    sizes: Sequence[Held],
    users: Sequence[ByUsers],
    delta_s: dict[int, float],
    histories: Sequence[ByHistory],
) -> list[Ratio]:
    few, many = sizes[0], sizes[-1]
    more = many.ask.items / few.ask.items
    largest = max(delta_s)
    return [
        Ratio(
            name="search by items",
            value=many.search_wall_s / few.search_wall_s,
            of=f"{many.ask.items:,} items / {few.ask.items:,}, {more:g} times as many",
        ),
        Ratio(
            name="search by changes",
            value=delta_s[largest] / delta_s[0],
            of=f"{largest:,} changed / none",
        ),
        Ratio(
            name="read by users",
            value=users[-1].read_s / users[0].read_s,
            of=f"{users[-1].users:,} users / {users[0].users:,}",
        ),
        Ratio(
            name="one more event, by history",
            value=(histories[-1].tail_read_s + histories[-1].tail_fold_s)
            / (histories[0].tail_read_s + histories[0].tail_fold_s),
            of=f"read and fold on a session after {histories[-1].events:,} events / after "
            f"{histories[0].events:,}",
        ),
    ]


def items_table(tiny: Held, sizes: Sequence[Held]) -> Table:
    columns = (
        *("items", "own MB", "mapped MB", "formula: own MB", "mapped MB", "process MB"),
        *("formula: process MB", "load s", "search p50 ms", "search CPU ms"),
    )
    rows = []
    for held in (tiny, *sizes):
        formula = expected_growth(held)
        rows.append(
            (
                f"{held.ask.items:,}",
                *(
                    f"{count / MB:.0f}"
                    for count in (
                        held.grown.private,
                        held.grown.mapped,
                        formula.private,
                        formula.mapped,
                        held.after.all,
                        expected(held),
                    )
                ),
                f"{held.load_s:.1f}",
                f"{held.search_wall_s * MS:.3f}",
                f"{held.search_cpu_s * MS:.3f}",
            )
        )
    return table_of(
        "By items: what one generation adds to a process, and the process", columns, rows
    )


def calculated(of: sizing.Ask, floors: sizing.Floors) -> Table:
    columns = (
        *("items", "generation own MB", "mapped MB", "a replica own GB", "mapped GB"),
        *("search CPU ms", "list CPU ms", "cores at 300 lists/s", "a node GB"),
    )
    rows = []
    for items in (10_000, 100_000, 1_000_000, CALCULATED):
        ask = replace(of, items=items, users=100_000, rate=300.0)
        found = sizing.size(ask, floors)
        searched = found.list_cpu_s - floors.request_cpu_s
        rows.append(
            (
                f"{items:,}",
                f"{found.generation.private / MB:,.0f}",
                f"{found.generation.mapped / MB:,.0f}",
                f"{found.replica.private / 1e9:.2f}",
                f"{found.replica.mapped / 1e9:.2f}",
                f"{searched * MS:.2f}",
                f"{found.list_cpu_s * MS:.2f}",
                f"{found.cores:.1f}",
                f"{found.node / 1e9:.1f}",
            )
        )
    title = "By the formula, with this run's floors: 100,000 users, 300 lists/s, all in replicas"
    return table_of(title, columns, rows)


def floors_table(floors: sizing.Floors, served: Sequence[Served]) -> Table:
    """Those of this run, and what the smallest catalog of `serve` says of page caches, which a
    process alone does not show."""
    told: dict[str, Callable[[sizing.Floors], str]] = {
        "gateway replica before a generation, own": lambda f: f"{f.replica_private / MB:.0f} MB",
        "gateway replica, share of files": lambda f: f"{f.replica_mapped / MB:.0f} MB",
        "process with MiniLM": lambda f: f"{f.encoder / MB:.0f} MB",
        "Ray, Serve and HAProxy of a node": lambda f: f"{f.ray / MB:.0f} MB",
        "CPU of a list without its search": lambda f: f"{f.request_cpu_s * MS:.2f} ms",
        "CPU of a search of nothing": lambda f: f"{f.search_cpu_s * US:.0f} us",
        "CPU of a byte that a search reads": lambda f: f"{f.byte_cpu_s * 1e12:.1f} ps",
        "database, of an event": lambda f: f"{f.event_bytes:.0f} bytes",
    }
    default = sizing.Floors()
    rows = [(name, show(floors), show(default)) for name, show in told.items()]
    caches = ""
    if served:
        small = served[0]
        more = small.private - small.expected().private
        caches = f"{(default.page_caches + more / small.gateways) / MB:.0f} MB"
    rows.append(("SQLite's page caches of a replica", caches, f"{default.page_caches / MB:.0f} MB"))
    return table_of("Floors", ("", "measured", "in `moonlark size`"), rows)


def histories_table(histories: Sequence[ByHistory]) -> Table:
    columns = (
        *("events", "read of the last one us", "its fold us"),
        *("read of all us", "fold of all us"),
    )
    rows = [
        (
            f"{row.events:,}",
            *(
                f"{seconds * US:.0f}"
                for seconds in (
                    row.tail_read_s,
                    row.tail_fold_s,
                    row.whole_read_s,
                    row.whole_fold_s,
                )
            ),
        )
        for row in histories
    ]
    return table_of("By length of a history (SQLite)", columns, rows)


def table_of(title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(title=title, columns=tuple(columns), rows=tuple(rows))
