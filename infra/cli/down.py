"""`moonlark down`: the end of what `moonlark serve --detach` started."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.settings import CliSettings
from infra.stack.errors import StackError, StackNotRunning
from infra.stack.ray_cluster import LocalRay
from infra.stack.serve_app import undeploy


def command(
    state_dir: Annotated[
        Path | None,
        typer.Option(help="Folder that `serve` was given; default MOONLARK_STATE_DIR."),
    ] = None,
) -> None:
    """Stop what serve --detach started.

    Requests that are under way are answered first; then every process of the local cluster ends.
    Nothing that was acknowledged is lost.
    """
    folder = state_dir or CliSettings().state_dir
    try:
        cluster = LocalRay.attach(folder)
    except StackNotRunning:
        typer.echo(f"nothing runs in {folder}")
        return
    stop(cluster)
    typer.echo("stopped")


def stop(cluster: LocalRay) -> None:
    """End the app gracefully where it can be, then the cluster in any case."""
    try:
        if cluster.is_running():
            undeploy(cluster)
    except StackError as error:
        typer.secho(f"the app did not end by itself: {error}", fg="yellow", err=True)
    finally:
        cluster.stop()
