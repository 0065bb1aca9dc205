"""The index: how close moonlark's search comes to faiss alone, and what a delta costs.

    python -m infra.bench.index            about 8 minutes, 2.5 GB

A catalog of made vectors is written as a night writes it and opened as a replica opens it. faiss
alone reads the same file, with the same nprobe, and knows no delta, no mask and no merge. Queries
lie like user vectors do; recall@100 is against exact search. Other families and other libraries are
measured at a smaller catalog (`index_families`), where all of them can be built.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
from tqdm import tqdm

from infra.bench.index_catalog import (
    BATCH,
    CORES,
    DIM,
    PROMISED,
    Built,
    Catalog,
    Changed,
    K,
    build_shards,
    make_catalog,
    make_delta,
    searched,
)
from infra.bench.index_families import HAS_PEERS, FamilyRow, Subject, families
from infra.bench.report import PACKAGES, Ratio, Report, Size, Table, run_bench
from infra.bench.rounds import Times, in_turn, ratio
from ray_jobs.shards.delta import Delta
from ray_jobs.shards.manifest import shard_name
from ray_jobs.shards.recall import recalls_of

ITEMS: dict[Size, int] = {"full": 1_000_000, "small": 20_000}
FAMILY_ITEMS: dict[Size, int] = {"full": 100_000, "small": 5_000}
ROUNDS: dict[Size, int] = {"full": 30, "small": 2}
TIMED: dict[Size, int] = {"full": 100, "small": 20}
"""Queries a round, one after the other, one thread."""
QUERIES: dict[Size, int] = {"full": 1_000, "small": 200}
"""Queries that nprobe is chosen with; recall is measured on as many others."""
SHARES = (0.0, 0.01, 0.1)
"""Changes as a share of the items: 45 % edits, 45 % new items, 10 % deletions."""


def measure(size: Size) -> Report:
    """Write, open, choose nprobe, then search in turn with what is alone and with deltas."""
    faiss.omp_set_num_threads(CORES)
    catalog = make_catalog(ITEMS[size], QUERIES[size])
    with TemporaryDirectory() as folder:
        one = build_shards(catalog, Path(folder) / "one", 1)
        two = build_shards(catalog, Path(folder) / "two", 2, one)
        changed = {
            share: make_delta(catalog, one.shards, share)
            for share in tqdm(SHARES, desc="deltas", leave=False)
        }
        alone = _alone(one, Path(folder) / "one")
        times = _times(catalog, one, two, changed, alone, size)
        recalls = _recalls(catalog, one, two, changed, alone)
        rows = _families(Path(folder) / "families", size)
    return Report(
        bench="index",
        about=(
            f"{ITEMS[size]:,} made vectors x {DIM}, clustered; {len(catalog.asked_BD)} queries like"
            f" user vectors, k = {K}, one query at a time on one thread; nlist "
            f"{one.shards.nlist}, nprobe {one.nprobe}, chosen as the night does for a recall of "
            f"{PROMISED} on other queries. Variants in turn, {ROUNDS[size]} rounds of "
            f"{TIMED[size]} queries."
        ),
        ratios=_ratios(times, recalls, rows),
        tables=(
            _search_table(times, recalls, TIMED[size]),
            _build_table(one, two),
            _delta_table(changed),
            _family_table(rows, FAMILY_ITEMS[size]),
        ),
        notes=(
            f"Libraries and families are compared at {FAMILY_ITEMS[size]:,} items, moonlark's own "
            "figure beside them: HNSW graphs of a million take too long to build on two cores. "
            "Each is built with its library's defaults, and searches with the least effort that "
            "reaches the promised recall, or the most that is tried (nprobe 256, effort 800).",
            "Memory of a family is that of its serialised form. Refined families keep the vectors "
            "in fp16 beside the codes.",
            *(() if HAS_PEERS else ("hnswlib and usearch are missing: extra [evaluation].",)),
            "A deleted or edited item costs the base a masked row; deltas share its centroids.",
        ),
    )


def _families(folder: Path, size: Size) -> list[FamilyRow]:
    """Of a smaller catalog, moonlark's own index first."""
    catalog = make_catalog(FAMILY_ITEMS[size], QUERIES[size])
    built = build_shards(catalog, folder, 1)
    nothing = Delta.empty(built.shards)
    ours = Subject(
        name="moonlark",
        is_peer=False,
        search=lambda queries_BD: searched(queries_BD, built.shards, nothing, built.nprobe),
        set_to=lambda nprobe: None,
        least=built.nprobe,
        most=built.nprobe,
        setting="nprobe {}, as the night chose",
        build_s=built.train_s + built.write_s,
        size=built.size,
    )
    return families(ours, catalog.vectors_ND, catalog.asked_BD, ROUNDS[size], TIMED[size])


def _alone(built: Built, folder: Path) -> Any:
    """The same file, read by faiss into memory."""
    index: Any = faiss.read_index(str(folder / shard_name(0)))
    index.nprobe = built.nprobe
    return index


def _times(
    catalog: Catalog,
    one: Built,
    two: Built,
    changed: dict[float, Changed],
    alone: Any,
    size: Size,
) -> dict[str, Times]:
    queries_BD = catalog.asked_BD[: TIMED[size]]

    def by_moonlark(built: Built, delta: Delta) -> Callable[[], object]:
        return lambda: searched(queries_BD, built.shards, delta, one.nprobe)

    def by_faiss() -> None:
        for row in range(len(queries_BD)):
            alone.search(queries_BD[row : row + 1], K)

    calls: dict[str, Callable[[], object]] = {"faiss alone": by_faiss}
    for share, change in changed.items():
        calls[f"delta {share:.0%}"] = by_moonlark(one, change.delta)
    calls["two shards"] = by_moonlark(two, Delta.empty(two.shards))
    faiss.omp_set_num_threads(1)
    try:
        return in_turn(calls, ROUNDS[size], "search")
    finally:
        faiss.omp_set_num_threads(CORES)


def _recalls(
    catalog: Catalog, one: Built, two: Built, changed: dict[float, Changed], alone: Any
) -> dict[str, float]:
    asked_BD, true_BK = catalog.asked_BD, changed[0.0].true_BK
    found = {"faiss alone": recalls_of(alone.search(asked_BD, K)[1], true_BK).mean()}
    for share, change in changed.items():
        found_BK = searched(asked_BD, one.shards, change.delta, one.nprobe)
        found[f"delta {share:.0%}"] = recalls_of(found_BK, change.true_BK).mean()
    found_BK = searched(asked_BD, two.shards, Delta.empty(two.shards), one.nprobe)
    found["two shards"] = recalls_of(found_BK, true_BK).mean()
    return {name: float(recall) for name, recall in found.items()}


def _ratios(
    times: dict[str, Times], recalls: dict[str, float], rows: list[FamilyRow]
) -> tuple[Ratio, ...]:
    nothing = times["delta 0%"]
    ours = next(row for row in rows if row.name == "moonlark")
    peers = [row for row in rows if row.is_peer and row.recall >= PROMISED]
    return (
        Ratio(
            name="one shard and faiss alone",
            value=ratio(nothing, times["faiss alone"]),
            of="search of moonlark, one shard, no delta / the same file by faiss, same nprobe",
            at_most=1.1,
        ),
        Ratio(
            name="recall@100, one shard",
            value=recalls["delta 0%"],
            of="found of the 100 true nearest, on queries that nprobe was not chosen with",
            at_least=PROMISED,
        ),
        Ratio(
            name="two shards",
            value=ratio(times["two shards"], times["faiss alone"]),
            of="search of moonlark, two shards in one process / faiss alone with one",
        ),
        Ratio(
            name="delta of 1 %",
            value=ratio(times["delta 1%"], nothing),
            of="search of moonlark with 1 % of the items changed / of moonlark with none",
        ),
        Ratio(
            name="delta of 10 %",
            value=ratio(times["delta 10%"], nothing),
            of="search of moonlark with 10 % of the items changed / of moonlark with none",
            at_most=1.25,
        ),
        Ratio(
            name="delta of 10 % and faiss alone",
            value=ratio(times["delta 10%"], times["faiss alone"]),
            of="search of moonlark with 10 % of the items changed / faiss alone with none",
        ),
        Ratio(
            name="recall@100, delta of 10 %",
            value=recalls["delta 10%"],
            of="found of the 100 true nearest among what is live",
        ),
        *(
            Ratio(
                name=f"moonlark and {peer.name}",
                value=ratio(ours.times, peer.times),
                of=f"search of moonlark / {peer.name}, both at recall >= {PROMISED}",
            )
            for peer in peers
        ),
    )


def _search_table(times: dict[str, Times], recalls: dict[str, float], queries: int) -> Table:
    rows = tuple(
        (name, f"{1e6 * found.wall_s / queries:.0f}", f"{recalls[name]:.4f}")
        for name, found in times.items()
    )
    return Table(title="one query", columns=("", "µs", "recall@100"), rows=rows)


def _build_table(one: Built, two: Built) -> Table:
    rows = tuple(
        (
            name,
            f"{built.train_s:.1f}" if built is one else "",
            f"{built.write_s:.1f}",
            f"{1e3 * built.open_s:.0f}",
            f"{built.choose_s:.1f}" if built is one else "",
            f"{built.size / 1e6:.0f}",
        )
        for name, built in (("one shard", one), ("two shards", two))
    )
    columns = ("", "k-means s", "write s", "manifest and open ms", "choose nprobe s", "MB")
    return Table(title="build", columns=columns, rows=rows)


def _delta_table(changed: dict[float, Changed]) -> Table:
    rows = tuple(
        (
            f"{share:.0%}",
            f"{change.changes:,}",
            f"{len(change.delta.masked):,}",
            f"{change.delta.count:,}",
            f"{1e6 * change.seconds / max(1, change.changes):.0f}",
        )
        for share, change in changed.items()
    )
    columns = ("delta", "changes", "masked", "rows", "µs a change")
    return Table(title=f"deltas, applied {BATCH:,} changes at once", columns=columns, rows=rows)


def _family_table(rows: list[FamilyRow], items: int) -> Table:
    return Table(
        title=f"families and libraries at {items:,} items",
        columns=("", "setting", "recall@100", "µs a query", "build s", "MB"),
        rows=tuple(row.cells for row in rows),
    )


if __name__ == "__main__":
    run_bench("index", measure, (*PACKAGES, "hnswlib", "usearch"))
