"""`moonlark explain`: a past answer, rebuilt from the log and the files of its generation."""

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.table import Table
from sqlalchemy import Engine

from infra.cli.console import console
from infra.cli.lazy import load
from infra.cli.store import open_store
from infra.cli.times import as_utc
from sql.engine import read_snapshot
from sql.exposures import Exposure, read_exposure

WAIT_S = 3.0
"""An exposure is written within a second after its answer; a busy database may take longer."""
LOOK_AGAIN_S = 0.25


class NoExposure(Exception):
    """Nothing is kept of that request."""

    hint = (
        "is it the request_id of a recommendation of this database? None is kept of anonymous "
        "lists, of erased users, and beyond the retention"
    )
    exit_status = 3


def command(
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="request_id of a recommendation.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Rebuild a past answer and show why it was so.

    The user vector is folded again from the log, the cosines are computed again from the files of
    the generation that answered; the reasons why one differs are named. Exit status: 0 all agree,
    1 one differs by more than 1e-5 from what was stored, or the database could not be asked (the
    error says which), 3 nothing is kept of that request. What could not be rebuilt is named, and
    differs from nothing.
    """
    store = open_store()
    exposure = wait_for_exposure(store.engine, request_id)
    # torch-free, but it loads faiss and pyarrow: not for a request that is not there.
    answer = load("serve.rebuild:rebuild")(
        store.engine, store.artifact_root, exposure, store.artifact_uri
    )
    if as_json:
        typer.echo(json.dumps(_document(answer), indent=2))
    else:
        console.print(_table(answer))
        for line in _lines(answer):
            typer.echo(line)
    if not answer.agrees:
        typer.secho("the rebuilt cosines are not the stored ones", fg="red", err=True)
        raise typer.Exit(1)


def wait_for_exposure(
    engine: Engine,
    request_id: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Exposure:
    """The exposure of that request, looked for again until `WAIT_S` have passed.

    Raises:
        NoExposure: there is none.
    """
    deadline = clock() + WAIT_S
    while True:
        with read_snapshot(engine) as conn:
            exposure = read_exposure(conn, request_id)
        if exposure is not None:
            return exposure
        if clock() >= deadline:
            raise NoExposure(f"no answer with request_id {request_id!r} (waited {WAIT_S:g} s)")
        sleep(LOOK_AGAIN_S)


def _table(answer: Any) -> Table:
    parts = sorted({name for item in answer.items for name in item.shown.parts})
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("item")
    for name in ("score", *parts, "rebuilt cosine", "difference"):
        table.add_column(name, justify="right")
    for rank, item in enumerate(answer.items, start=_offset(answer) + 1):
        table.add_row(
            str(rank),
            item.shown.item_id,
            f"{item.shown.score:.6f}",
            *(_number(item.shown.parts.get(name)) for name in parts),
            _number(item.cosine),
            "" if item.difference is None else f"{item.difference:.1e}",
        )
    return table


def _lines(answer: Any) -> list[str]:
    exposure, largest = answer.exposure, answer.max_abs_difference
    as_of_ms = exposure.params.get("as_of_ms", exposure.at_ms)
    who = "no stored user" if answer.user_id is None else f"user {answer.user_id}"
    return [
        f"{who}, by {exposure.params.get('basis')}; generation {exposure.generation_id}, "
        f"user_seq {exposure.user_seq}, catalog_seq {exposure.catalog_seq}, "
        f"policy_seq {exposure.params.get('policy_seq', 0)}, as of {as_utc(as_of_ms)}",
        f"{answer.effective_events} effective of {answer.events} events in the log",
        f"degraded: {', '.join(exposure.degraded) or 'no'}",
        "largest difference: " + ("none could be rebuilt" if largest is None else f"{largest:.1e}"),
        *(f"note: {reason}" for reason in answer.reasons),
    ]


def _document(answer: Any) -> dict[str, Any]:
    exposure = answer.exposure
    return {
        "request_id": exposure.request_id,
        "user_id": answer.user_id,
        "generation": exposure.generation_id,
        "user_seq": exposure.user_seq,
        "catalog_seq": exposure.catalog_seq,
        "at": as_utc(exposure.at_ms),
        "degraded": list(exposure.degraded),
        "params": dict(exposure.params),
        "events": answer.events,
        "effective_events": answer.effective_events,
        "items": [
            {
                "item_id": item.shown.item_id,
                "score": item.shown.score,
                "parts": dict(item.shown.parts),
                "rebuilt_cosine": item.cosine,
                "difference": item.difference,
            }
            for item in answer.items
        ],
        "max_abs_difference": answer.max_abs_difference,
        "agrees": answer.agrees,
        "reasons": list(answer.reasons),
    }


def _offset(answer: Any) -> int:
    offset = answer.exposure.params.get("offset", 0)
    return offset if isinstance(offset, int) else 0


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
