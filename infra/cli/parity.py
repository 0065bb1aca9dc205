"""`moonlark parity`: does the day compute what the night would (promise 3)?"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from sqlalchemy import Engine

from infra.cli.bert import load_encoder
from infra.cli.settings import CliSettings
from infra.cli.store import now_ms, open_store
from infra.client import Moonlark, NotFound
from ray_jobs.nightly.parity import USERS, Answer, Ask, Parity, check, store
from ray_jobs.shards.object_store import ObjectStore
from sql import generations
from sql.engine import read_snapshot


def command(
    users: Annotated[int, typer.Option(help="Users to compare.", min=1, max=100_000)] = USERS,
    seed: Annotated[int, typer.Option(help="Draws the users and the texts.", min=0)] = 0,
    generation: Annotated[
        str | None, typer.Option(help="Its id; default the live one.", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Ask the replicas behind this URL instead of the store.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """Compare what the day computes with the night.

    User vectors as the day makes them (stored session, tail of the log), against the whole log
    folded from nothing and against torch; texts of items and searches embedded again, against
    their stored vectors. The figures are kept with the generation; status 1 where vectors are more
    than 1e-5 apart or a cosine is below 0.9999.
    """
    opened = open_store()
    generation_id = generation or _live(opened.engine)
    with _asking(url) as ask:
        objects = ObjectStore.open(opened.artifact_uri)
        measured = Parity(opened.engine, opened.artifact_root, generation_id, ask, objects=objects)
        report = measured.report(load_encoder(), users, seed)
    store(opened.engine, generation_id, report, now_ms())
    document = {"generation": generation_id, "seed": seed, **report}
    for name, value in document.items():
        typer.echo(f"{name:<24} {value}")
    if json_file is not None:
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    check(report)


def _live(engine: Engine) -> str:
    with read_snapshot(engine) as conn:
        live = generations.read_live(conn)
    if live is None:
        raise ValueError("no generation is live: moonlark night")
    return live.generation_id


@contextmanager
def _asking(url: str | None) -> Iterator[Ask | None]:
    if url is None:
        yield None
        return
    settings = CliSettings()
    key = settings.api_key.get_secret_value() if settings.api_key else None
    with Moonlark(url, timeout_s=settings.timeout_s, api_key=key) as client:

        def ask(user_id: str) -> Answer | None:
            try:
                answer = client.user(user_id, vector=True)
            except NotFound:
                return None
            vector = None if answer.vector is None else np.array(answer.vector, np.float32)
            return Answer(str(answer.generation), answer.user_seq, vector)

        yield ask
