"""`moonlark drill`: break or switch something under real traffic, and check every promise."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.cli.console import console
from infra.cli.lazy import load
from infra.drills.figures import Figures, Options

SCENARIOS = {
    "switch": "infra.drills.switch:run",
    "deltas": "infra.drills.deltas:run",
    "kill-replica": "infra.drills.kill_replica:run",
    "kill-proxy": "infra.drills.kill_serve:run_proxy",
    "kill-controller": "infra.drills.kill_serve:run_controller",
    "kill-gcs": "infra.drills.kill_cluster:run_gcs",
    "kill-node": "infra.drills.kill_cluster:run_node",
    "kill-database": "infra.drills.kill_database:run",
    "kill-airflow": "infra.drills.kill_airflow:run",
    "standalone": "infra.drills.standalone:run",
    "pause": "infra.drills.pause:run",
    "bad-generation": "infra.drills.bad_generation:run",
    "corrupt": "infra.drills.corrupt:run",
    "erase": "infra.drills.erase:run",
    "full-disk": "infra.drills.full_disk:run",
    "io-error": "infra.drills.io_error:run",
    "shard-gone": "infra.drills.shard_gone:run",
    "encoder-gone": "infra.drills.encoder_gone:run",
    "overload": "infra.drills.overload:run",
    "retry-storm": "infra.drills.retry_storm:run",
    "runbook": "infra.drills.runbooks:run",
}
NAMED = ("runbook", "kill-airflow")
ALL = "all"
MAX_ROUNDS = 10_000
MAX_OPS = 10_000_000


def command(
    scenario: Annotated[str, typer.Argument(help=f"One of {', '.join(SCENARIOS)}; or {ALL}.")],
    name: Annotated[
        str | None,
        typer.Argument(help="Of one runbook, or one victim (kill-airflow); else all."),
    ] = None,
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
    if scenario not in (ALL, *SCENARIOS):
        raise ValueError(f"scenario: {scenario!r}, accepted: {', '.join(SCENARIOS)}, {ALL}")
    if name is not None and scenario not in NAMED:
        raise ValueError(f"{name!r}: only {' and '.join(NAMED)} take a name")
    options = Options(rounds, ops, seed, name=None if name == ALL else name)
    if scenario == ALL:
        _run_all(options, json_file)
        return
    figures: Figures = load(SCENARIOS[scenario])(options)
    if json_file is not None:
        figures.write(json_file)
    _tell(figures)
    if not figures.passed:
        raise typer.Exit(1)


def _run_all(options: Options, json_file: Path | None) -> None:
    """One after the other, each on a stack of its own; one that ends with an error has failed."""
    documents: list[dict[str, Any]] = []
    for scenario, where in SCENARIOS.items():
        console.rule(scenario)
        try:
            figures: Figures = load(where)(options)
        except Exception as error:  # noqa: BLE001 - an edge: the other drills run all the same
            figures = Figures(scenario, 0, options.seed)
            figures.tell(f"{scenario} ended with {error!r}")
        _tell(figures)
        documents.append(figures.document())
        if json_file is not None:  # after each: one may break off
            json_file.write_text(json.dumps(documents, indent=2) + "\n", encoding="utf-8")
    failed = [document["scenario"] for document in documents if not document["passed"]]
    console.print(f"{len(documents)} drills, failed: {', '.join(failed) or 'none'}")
    if failed:
        raise typer.Exit(1)


def _tell(figures: Figures) -> None:
    console.print(figures.table())
    for broken in figures.broken:
        console.print(f"broken: {broken}", style="red", soft_wrap=True)
