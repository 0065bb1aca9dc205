"""`moonlark serve`: a local Ray cluster with the Serve application on it, on the loopback."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from infra.cli.down import stop
from infra.cli.settings import CliSettings
from infra.cli.store import absolute_environment, open_store
from infra.stack.ray_cluster import LocalRay
from infra.stack.serve_app import deploy
from sql.engine import read_snapshot
from sql.generations import read_live
from sql.keys import read_keys

APP = "serve.app:build"


def command(
    port: Annotated[int, typer.Option(help="HTTP port; 0 takes a free one.", min=0)] = 8000,
    cpus: Annotated[
        int | None, typer.Option(help="CPUs that Ray may use; default all.", min=1)
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when it answers; `moonlark down` ends it.")
    ] = False,
    state_dir: Annotated[
        Path | None, typer.Option(help="Folder of the cluster; default MOONLARK_STATE_DIR.")
    ] = None,
) -> None:
    """Answer over HTTP, on this machine.

    Starts a local Ray cluster and the API on 127.0.0.1, and stops both on Ctrl-C. For a cluster
    of several machines, deploy serve.app:build with Ray Serve there.
    """
    with read_snapshot(open_store().engine) as conn:
        live = read_live(conn)
        has_keys, _ = read_keys(conn)
    cluster = LocalRay(
        state_dir or CliSettings().state_dir,
        http_port=port,
        num_cpus=cpus,
        extra_env=absolute_environment(),
    )
    typer.echo("starting Ray ...", err=True)
    cluster.start()
    try:
        typer.echo("starting the replicas ...", err=True)
        url = deploy(cluster, APP)
    except BaseException:
        cluster.stop()
        raise
    typer.echo(f"moonlark answers at {url} (API: {url}/docs)")
    if not has_keys:
        typer.echo(
            "there is no API key: whoever is on this machine may ask it (moonlark keys make)"
        )
    if live is None:
        typer.echo("nothing is live yet: moonlark night")
    if detach:
        typer.echo("next: moonlark recommend USER; moonlark down stops it")
        return
    typer.echo("Ctrl-C stops it")
    try:
        _wait_for_signal()
    finally:
        typer.echo("stopping ...", err=True)
        stop(cluster)


def _wait_for_signal() -> None:
    """Until SIGINT or SIGTERM; both end in the same orderly stop."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    earlier = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ended.wait()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
