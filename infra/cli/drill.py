"""`moonlark drill`: break or switch something under real traffic, and check every promise."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.console import console
from infra.cli.lazy import load
from infra.drills.figures import Figures, Options

SCENARIOS = {
    "switch": "infra.drills.switch:run",
    "deltas": "infra.drills.deltas:run",
    "bad-generation": "infra.drills.bad_generation:run",
    "corrupt": "infra.drills.corrupt:run",
    "erase": "infra.drills.erase:run",
    "full-disk": "infra.drills.full_disk:run",
    "io-error": "infra.drills.io_error:run",
    "shard-gone": "infra.drills.shard_gone:run",
    "encoder-gone": "infra.drills.encoder_gone:run",
    "overload": "infra.drills.overload:run",
    "retry-storm": "infra.drills.retry_storm:run",
}
MAX_ROUNDS = 10_000
MAX_OPS = 10_000_000


def command(
    scenario: Annotated[str, typer.Argument(help=f"One of {', '.join(SCENARIOS)}.")],
    rounds: Annotated[
        int | None, typer.Option(help="How often; default the scenario's.", min=1, max=MAX_ROUNDS)
    ] = None,
    ops: Annotated[
        int | None, typer.Option(help="How many operations (deltas).", min=1, max=MAX_OPS)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", min=0)] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """Show that a promise holds while something happens.

    Starts what it needs in a folder of its own, runs real clients, and checks every acknowledged
    write and every answer. Ends with status 1 when a promise was broken; timings are reported, not
    judged.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario: {scenario!r}, accepted: {', '.join(SCENARIOS)}")
    figures: Figures = load(SCENARIOS[scenario])(Options(rounds, ops, seed))
    if json_file is not None:
        figures.write(json_file)
    console.print(figures.table())
    for broken in figures.broken:
        console.print(f"broken: {broken}", style="red", soft_wrap=True)
    if not figures.passed:
        raise typer.Exit(1)
