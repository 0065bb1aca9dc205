"""`moonlark simulate`: the promises under a virtual clock and a faulty store, many histories."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from tqdm import tqdm

from infra.cli.console import console
from infra.simulation.run import OPERATIONS, Outcome, one_thread, run_seed, run_seeds
from infra.simulation.world import open_bench


def command(
    seeds: Annotated[int, typer.Option(help="How many.", min=1, max=1_000_000)] = 200,
    first: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    operations: Annotated[
        int, typer.Option(help="Things that the clients of a seed do.", min=1, max=10_000)
    ] = OPERATIONS,
    jobs: Annotated[
        int | None, typer.Option(help="Processes; default: one a core.", min=1, max=256)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here too.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print every step; for one seed.")
    ] = False,
) -> None:
    """Run the shipped code through histories of faults.

    Many of them, seeded, and every answer is checked.

    Crashes, lost acknowledgements, wrong clocks, flipped bits, nights that fail, rollbacks,
    erasures. One seed is one history: `--first S --seeds 1 --verbose` shows it again.
    """
    chosen = range(first, first + seeds)
    if verbose:
        one_thread()
        with open_bench() as bench:
            outcomes = [run_seed(s, bench, operations=operations, show=typer.echo) for s in chosen]
    else:
        workers = min(jobs or os.cpu_count() or 1, seeds)
        outcomes = _with_progress(run_seeds(chosen, jobs=workers, operations=operations), seeds)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed[:3]:
        _show(outcome)
    console.print(_table(outcomes, failed))
    if json_file is not None:
        json_file.write_text(json.dumps(_document(outcomes, failed), indent=2) + "\n")
    if failed:
        typer.echo(f"next: moonlark simulate --first {failed[0].seed} --seeds 1 --verbose")
        raise typer.Exit(1)


def _with_progress(outcomes: Iterable[Outcome], total: int) -> list[Outcome]:
    return list(tqdm(outcomes, total=total, unit=" seeds", smoothing=0.05))


def _show(outcome: Outcome) -> None:
    typer.echo(f"seed {outcome.seed} failed; its last steps:")
    for line in outcome.last_steps:
        typer.echo(f"  {line}")
    typer.echo(outcome.error)


def _document(outcomes: list[Outcome], failed: list[Outcome]) -> dict[str, object]:
    return {
        "scenario": "simulate",
        "seeds": len(outcomes),
        "first": outcomes[0].seed,
        "failed": [outcome.seed for outcome in failed],
        "steps": sum(outcome.steps for outcome in outcomes),
        "answers_checked": sum(outcome.answers for outcome in outcomes),
        "lists_compared": sum(outcome.exact for outcome in outcomes),
        "flips": sum(outcome.flips for outcome in outcomes),
        "passed": not failed,
    }


def _table(outcomes: list[Outcome], failed: list[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _document(outcomes, failed).items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        table.add_row(name.replace("_", " "), str(shown))
    return table
