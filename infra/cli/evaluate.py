"""`moonlark evaluate`: how good the model is, by a public protocol, beside a baseline."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from infra.cli.console import console
from infra.cli.settings import CliSettings
from infra.evaluation.leave_one_out import MODELS, run_leave_one_out
from ray_jobs.nightly.settings import NightSettings


def command(
    data: Annotated[
        str, typer.Option(help="ml-100k, or a folder with items.* and events.*.")
    ] = "ml-100k",
    protocol: Annotated[
        Literal["leave-one-out"], typer.Option(help="How it is measured.")
    ] = "leave-one-out",
    models: Annotated[
        list[str] | None,
        typer.Option(help=f"Of {', '.join(MODELS)}; may be repeated; default all."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the training run.", min=0)] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """Measure the model on a data set.

    Leave-one-out: each user's last event is to be found among all items, those seen before
    excluded; the one before it chooses the epoch; the rest trains a twin of the night's model.
    Nothing is stored or published.
    """
    result = run_leave_one_out(
        data,
        list(models or MODELS),
        seed,
        lambda line: typer.echo(line, err=True),
        bert_model=NightSettings().bert_model,
        state_dir=CliSettings().state_dir,
    )
    assert result["protocol"] == protocol
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print(_table(result["models"]))


def _table(models: dict[str, dict[str, Any]]) -> Table:
    """A row a model, a column a figure, in the order of the result."""
    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    names = list(next(iter(models.values()), {}))
    for name in names:
        table.add_column(name, justify="right")
    for model, figures in models.items():
        cells = [f"{figures[n]:.1f}" if n == "fit_s" else f"{figures[n]:.4f}" for n in names]
        table.add_row(model, *cells)
    return table
