"""`moonlark night`: what the DAG `nightly_generation` does, without Airflow.

Ray reads its settings when it is imported, so they are set first and the steps, which import Ray,
are loaded then.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dags.generation_name import generation_id
from infra.cli.lazy import load
from infra.cli.settings import CliSettings
from infra.cli.store import absolute_environment, open_store
from infra.stack.errors import StackNotRunning
from infra.stack.ray_cluster import LocalRay


def command(
    generation: Annotated[
        str | None, typer.Option(help="Go on with this one, which broke off; default a new one.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="A Ray cluster, HOST:PORT; default one on this machine."
        ),
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(help="CPUs of the one on this machine; default all.", min=1)
    ] = None,
) -> None:
    """Make a generation and publish it.

    The steps are export, check, embed, train, build, fuse, fold, evaluate, publish, verify, parity,
    prune, as in the DAG. Steps that are done are not done again; of a generation that is published
    already, what is left is verify, parity and prune. Whoever is answering goes on meanwhile, and
    switches at the end; a generation that does not pass its gate changes nothing.

    Exit status: 0 every step is done (also where publish left the generation sealed, under a hold
    or since another is newer), 1 a step failed or refused: --generation goes on with it.
    """
    open_store().engine.dispose()  # an absent or outdated database is told before Ray starts
    load("infra.cli.bert:check_model")(is_local=address is None)
    new_id = generation_id(f"cli-{uuid.uuid4().hex}", datetime.now(UTC))
    with _cluster(address, cpus) as environment:
        os.environ.update(environment)
        load("infra.cli.night_steps:run_night")(generation or new_id)


@contextmanager
def _cluster(address: str | None, cpus: int | None) -> Iterator[dict[str, str]]:
    """The environment of a Ray cluster: the given one, the one that serves here, or one for now."""
    if address is not None:
        yield {"RAY_ADDRESS": address}
        return
    state_dir = CliSettings().state_dir
    serving = _serving(state_dir)
    if serving is not None:
        yield {**absolute_environment(), **serving.env}
        return
    store = absolute_environment()
    typer.echo("starting Ray ...", err=True)
    with LocalRay(state_dir / "night", http_port=0, num_cpus=cpus, extra_env=store) as cluster:
        yield {**store, **cluster.env}


def _serving(state_dir: Path) -> LocalRay | None:
    try:
        cluster = LocalRay.attach(state_dir)
    except StackNotRunning:
        return None
    return cluster if cluster.is_running() else None
