"""Figures of the stacks as the report has them: ratios with their goals, then tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from infra.bench.report import Ratio, Table
from infra.bench.serving.phases import BARE, BATCH, Figures
from infra.bench.serving.requests import K
from infra.bench.serving.sender import Sent

AT_MOST_OF_FLOORS = 1.3
LEAST_OF_NOOP = 0.4
MOST_OF_COMMIT = 2.0
EVENTS_PER_S = 10_000.0
ANSWER_MS = 50.0
SERVER = ("gateway", "haproxy")
MOST_WRONG = 3
RAN = "all phases ran"
RECOMMENDATIONS = "recommendations"
OWN_AFTER = "own memory of the gateways after, MB"
MAPPED_AFTER = "pages of files of the gateways after, MB"
LISTS_ANSWERED = "lists answered meanwhile"
"""Rows that `infra.bench.growth` reads again."""
MB = 1e6
NOOP = "no-op"
"""In the title of each loop that is not moonlark's."""
NOOP_ASGI = f"{NOOP}, ASGI"


def ratios(name: str, figures: Figures, *, is_judged: bool, is_smaller: bool) -> list[Ratio]:
    """Of one stack. `is_judged`: with goals; `is_smaller`: the goal of the smaller catalog."""
    lists, noop = figures.loops["lists"], figures.loops["noop"]
    floors = noop.cpu_ms("noop", "haproxy") + sum(figures.floors.values())
    batches = figures.loops["batches"]
    goal = is_judged or None
    acks, visits = figures.at_half["events"], figures.at_half["visits"]
    ours = [sent for title, sent in _all_sent(figures).items() if NOOP not in title]
    commit_ms = float(np.quantile(figures.commits_s, 0.99) * 1000)
    return [
        Ratio(
            name=f"{name}: a recommendation",
            value=lists.cpu_ms(*SERVER) / floors,
            of="its CPU / that of no-op, faiss alone and snapshot read together",
            at_most=AT_MOST_OF_FLOORS if is_judged else None,
        ),
        Ratio(
            name=f"{name}: recommendations/s",
            value=lists.per_s / noop.per_s,
            of="of the no-op's rate, 16 connections",
            at_least=LEAST_OF_NOOP if is_smaller else None,
        ),
        Ratio(
            name=f"{name}: acknowledgement",
            value=acks.whole_ms(0.99) / commit_ms,
            of="p99 of one event at half load / p99 of a bare commit at the same rate",
            at_most=goal and MOST_OF_COMMIT,
        ),
        Ratio(
            name=f"{name}: events in batches",
            value=figures.stored / batches.whole.wall_s / EVENTS_PER_S,
            of=f"events stored a second, in batches of {BATCH} / 10,000",
            at_least=goal and 1.0,
        ),
        Ratio(
            name=f"{name}: stored",
            value=figures.stored / max(1, figures.distinct),
            of="events in the log / different events sent (a tenth of the batches twice)",
            at_least=goal and 1.0,
            at_most=goal and 1.0,
        ),
        Ratio(
            name=f"{name}: event to answer",
            value=visits.whole_ms(0.99) / ANSWER_MS,
            of="p99 at half load / 50 ms; a list without its `user_seq`, or with the item, is none",
            at_most=goal and 1.0,
        ),
        Ratio(
            name=f"{name}: refused or wrong",
            value=sum(sent.failed for sent in ours) / sum(sent.sent for sent in ours),
            of="refused or wrong / sent, all loops but the no-ops'",
            at_most=goal and 0.0,
        ),
    ]


def tables(name: str, figures: Figures) -> list[Table]:
    """Of one stack."""
    return [_rates(name, figures), _floors(name, figures), _latencies(name, figures)]


def _rates(name: str, figures: Figures) -> Table:
    shown: Mapping[str, tuple[str, Sequence[str]]] = {
        "lists": (RECOMMENDATIONS, SERVER),
        "events": ("events, one a post", SERVER),
        "batches": (f"posts of {BATCH} events", SERVER),
        "visits": ("event, then list", SERVER),
        "noop": (NOOP_ASGI, ("noop", "haproxy")),
        "noop fastapi": ("no-op, FastAPI", ("noop fastapi", "haproxy")),
        BARE: ("FastAPI under uvicorn, one process", (BARE,)),
    }
    rows = []
    for loop_name, (title, groups) in shown.items():
        loop = figures.loops[loop_name]
        rows.append(
            (
                title,
                f"{loop.per_s:,.0f}",
                f"{loop.cpu_ms(*groups):.3f}",
                f"{loop.cpu_ms('haproxy'):.3f}",
                f"{loop.cpu_ms('database'):.3f}",
                f"{loop.sender_ms:.3f}",
            )
        )
    columns = ("closed loop, 16 connections", "/s", "server CPU ms", "of it HAProxy")
    return Table(
        title=f"{name}: rates",
        columns=(*columns, "database CPU ms", "sender CPU ms"),
        rows=tuple(rows),
    )


def _floors(name: str, figures: Figures) -> Table:
    rows = [(floor, f"{cpu_ms:.3f}") for floor, cpu_ms in figures.floors.items()]
    rows.append((f"recall@{K} of the search, a share", f"{figures.recall:.4f}"))
    assert figures.idle is not None, RAN
    assert figures.worked is not None, RAN
    rows += [
        ("own memory of the gateways before, MB", f"{figures.idle.private / MB:,.0f}"),
        ("pages of files of the gateways before, MB", f"{figures.idle.mapped / MB:,.0f}"),
        (OWN_AFTER, f"{figures.worked.private / MB:,.0f}"),
        (MAPPED_AFTER, f"{figures.worked.mapped / MB:,.0f}"),
        (LISTS_ANSWERED, f"{figures.lists_answered:,}"),
    ]
    return Table(
        title=f"{name}: floors and memory", columns=("", "CPU ms, or as said"), rows=tuple(rows)
    )


def _latencies(name: str, figures: Figures) -> Table:
    commits_ms = 1000 * np.quantile(figures.commits_s, [0.5, 0.99])
    half = figures.at_half
    assert figures.searches is not None, RAN
    rows = [
        *_rows("recommendation", half["lists"]),
        *_rows("event, acknowledged", half["events"]),
        *_rows(NOOP_ASGI, half["noop"]),
        ("bare commit", "", f"{commits_ms[0]:.1f}", f"{commits_ms[1]:.1f}"),
        *_rows("event and list", half["visits"], ("the event", "the list after it")),
        *_rows("search event and list, one client", figures.searches, ("the event (BERT)", "")),
    ]
    columns = ("open loop at half the maximum", "/s", "p50 ms", "p99 ms")
    return Table(title=f"{name}: latency", columns=columns, rows=tuple(rows))


def _rows(title: str, sent: Sent, parts: Sequence[str] = ()) -> list[tuple[str, str, str, str]]:
    rows = [(title, f"{sent.per_s:,.0f}", _ms(sent.whole_ms(0.5)), _ms(sent.whole_ms(0.99)))]
    for part, told in enumerate(parts):
        if told:
            middle, high = sent.part_ms(part, 0.5), sent.part_ms(part, 0.99)
            rows.append((f"of it {told}", "", _ms(middle), _ms(high)))
    return rows


def _ms(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "refused"


def wrong(name: str, figures: Figures) -> list[str]:
    """What was not answered as it should have been, in words."""
    told = []
    for title, sent in _all_sent(figures).items():
        for why, count in list(sent.wrong.items())[:MOST_WRONG]:
            told.append(f"{name}, {title}: {count} times {why}")
    return told


def _all_sent(figures: Figures) -> dict[str, Sent]:
    """By what they are called where something went wrong."""
    assert figures.searches is not None, RAN
    titles = {"lists": RECOMMENDATIONS, "noop": NOOP_ASGI}
    titles |= {"noop fastapi": f"{NOOP}, FastAPI", BARE: f"{NOOP}, FastAPI under uvicorn"}
    found = {titles.get(key, key): loop.whole for key, loop in figures.loops.items()}
    for key, sent in figures.at_half.items():
        found[f"{titles.get(key, key)} at half load"] = sent
    return found | {"searches": figures.searches}
