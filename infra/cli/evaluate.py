"""`moonlark evaluate`: how good the model is, by a public protocol, beside what else there is."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table as RichTable
from tqdm import tqdm

from infra.cli.console import console
from infra.cli.lazy import load
from infra.cli.settings import CliSettings
from infra.evaluation.bar import question_bar
from infra.evaluation.evaluate import Request, as_json, evaluate
from infra.evaluation.interactions import Interactions
from infra.evaluation.load import load_interactions
from infra.evaluation.plots import draw, require_matplotlib
from infra.evaluation.registry import MODELS
from infra.evaluation.replay import VARIANTS, Variant
from infra.evaluation.text_vectors import TextVectors
from infra.evaluation.walk import CUTOFF
from ray_jobs.nightly.settings import NightSettings

if TYPE_CHECKING:
    from infra.evaluation.over_http import OverHttp

DEFAULT_MODELS = ("moonlark", "popularity", "item-knn", "sequential-knn", "ease")
SHOWN = {
    "ndcg@{k}": "ndcg@{k}",
    "hr@{k}": "hr@{k}",
    "mrr": "mrr",
    "coverage@{k}": "cover",
    "diversity": "divers",
    "warm": "warm",
    "cold": "cold",
    "known_users": "known",
    "new_users": "new",
}


def command(
    data: Annotated[
        str,
        typer.Option(
            help="ml-100k, or a folder: IFDB, Online Retail (known by their files), or one with "
            "items.* and events.*."
        ),
    ] = "ml-100k",
    protocol: Annotated[
        Literal["leave-one-out", "replay"], typer.Option(help="How it is measured.")
    ] = "leave-one-out",
    models: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of {', '.join(MODELS)}; separated by commas. The others are compared with the "
            f"first. Default: {','.join(DEFAULT_MODELS)}."
        ),
    ] = None,
    seed: Annotated[
        str, typer.Option(help="Of the training runs; several, separated by commas: the mean.")
    ] = "0",
    k: Annotated[
        int, typer.Option("--k", help="Length of the lists that are scored.", min=1, max=1000)
    ] = CUTOFF,
    variant: Annotated[
        list[str] | None,
        typer.Option(help=f"Replay only, of {', '.join(VARIANTS)}; default the last."),
    ] = None,
    nights: Annotated[
        int, typer.Option(help="Replay only: learned anew every so many nights.", min=1)
    ] = 7,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Replay only: stop at this day (UTC)."),
    ] = None,
    http: Annotated[
        int,
        typer.Option(
            help="Replay only: so many lists of 10 are asked of the shipped API as well, after a "
            "night on what came before the cut; they must be the same.",
            min=0,
        ),
    ] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write plots into this folder (needs the extra evaluation).")
    ] = None,
) -> None:
    """Measure the model on a data set.

    Leave-one-out: each user's last event is to be found among all items, those seen before
    excluded; the one before it chooses the epoch and all options; the rest trains a twin of the
    night's model. Replay: what came before a cut is learned from; the later events are asked for
    one by one, each with what was known a moment before. Nothing is stored or published.
    """
    settings = CliSettings()
    cache = settings.state_dir / "evaluation"

    def say(line: str) -> None:
        tqdm.write(line)  # above the bar

    if protocol != "replay":
        _refuse_without_replay(variant=variant, until=until, http=http or None)
    if json_file is not None:
        _try_to_write(json_file)
    if plot is not None:
        require_matplotlib()
        plot.mkdir(parents=True, exist_ok=True)
    interactions = load_interactions(data, settings.state_dir)
    request = Request(
        models=_split(models) or DEFAULT_MODELS,
        protocol=protocol,
        variants=_variants(_split(variant)),
        seeds=_seeds(seed),
        k=k,
        nights=nights,
        until_ms=None if until is None else round(until.replace(tzinfo=UTC).timestamp() * 1000),
        embed=TextVectors(cache, _bert(settings), say).of,
        cache=cache,
        say=say,
        bar=question_bar,
    )
    tables = evaluate(interactions, request)
    result = as_json(interactions, request, tables)
    if json_file is not None:
        _write(json_file, result)
    for table in tables:
        console.print(f"\n{interactions.name}, {table.variant}")
        figures = table.figures()
        console.print(_shown(figures, k))
        for line in _compared(figures, k):
            console.print(line, soft_wrap=True)
        if plot is not None:
            for path in draw(table, plot, f"{interactions.name}-{table.variant}"):
                console.print(str(path))
    for name, gain in result.get("live_feedback", {}).items():
        console.print(f"live feedback adds to {name}: {_interval(gain, k)}")
        by_hour = enumerate(gain["by_hour"])
        told = [f"{hour}: {more:+.4f}" for hour, more in by_hour if more is not None]
        console.print(f"  by hour of the day (UTC): {', '.join(told)}", soft_wrap=True)
    if http:
        found = _over_http(interactions, request, http)
        if json_file is not None:
            _write(json_file, result | {"http": asdict(found)})
        _tell_http(found)


def _refuse_without_replay(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"--{name} is of a replay: add --protocol replay")


def _try_to_write(path: Path) -> None:
    """Now, and not after hours; a file made by trying is gone again. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    existed = path.exists()
    with path.open("a", encoding="utf-8"):
        pass
    if not existed:
        path.unlink()


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _over_http(interactions: Interactions, request: Request, count: int) -> "OverHttp":
    assert request.embed is not None
    ask = load("infra.evaluation.over_http:ask_over_http")  # the whole day, for who asks for it
    bert_IT, recipe = request.embed(interactions.texts_I), request.recipe(request.seeds[0])
    found: OverHttp = ask(interactions, bert_IT, recipe, count, question_bar("over HTTP", count))
    return found


def _tell_http(found: "OverHttp") -> None:
    """Raises `typer.Exit(1)` where the two differ."""
    console.print(
        f"over HTTP: of {found.asked} lists {found.equal} are those of the replay, {found.tied} "
        f"but for equal scores, {found.differ} differ; NDCG@10 {found.ndcg_http:.4f} and "
        f"{found.ndcg_replay:.4f}"
    )
    if found.differ:
        raise typer.Exit(1)


def _bert(settings: CliSettings) -> str | None:
    named = NightSettings().bert_model
    own = settings.state_dir / "models" / "all-MiniLM-L6-v2"
    return named or (str(own) if own.is_dir() else None)


def _split(values: list[str] | None) -> tuple[str, ...]:
    return tuple(
        name.strip() for value in values or () for name in value.split(",") if name.strip()
    )


def _variants(names: tuple[str, ...]) -> tuple[Variant, ...]:
    known: dict[str, Variant] = {variant: variant for variant in VARIANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r}, accepted: {', '.join(VARIANTS)}")
    return tuple(known[name] for name in names) or VARIANTS[-1:]


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise typer.BadParameter(f"--seed {text!r}, accepted: numbers, separated by commas")
    if len(set(map(int, parts))) < len(parts):
        raise typer.BadParameter(f"--seed {text!r}, accepted: each number once")
    return tuple(map(int, parts))


def _shown(models: dict[str, dict[str, Any]], k: int) -> RichTable:
    """A row a model, a column a figure."""
    table = RichTable(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    titles = {name.format(k=k): title.format(k=k) for name, title in SHOWN.items()}
    names = [name for name in titles if any(row.get(name) is not None for row in models.values())]
    for name in names:
        table.add_column(titles[name], justify="right", no_wrap=True)
    for model, row in models.items():
        cells = [_cell(name, row.get(name)) for name in names]
        table.add_row(model, *cells)
    return table


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if name.startswith("ndcg") else f"{value:.3f}"


def _compared(models: dict[str, dict[str, Any]], k: int) -> list[str]:
    """How much more the first gains than each of the others."""
    first, *others = models
    return [
        f"{first} less {name}: {_interval(models[name]['difference'], k)}"
        + (f" [{models[name]['chosen']}]" if models[name]["chosen"] else "")
        for name in others
    ]


def _interval(found: dict[str, Any], k: int) -> str:
    real = "" if found["is_real"] else ", may be chance"
    return f"{found['mean']:+.4f} NDCG@{k} ({found['low']:+.4f} to {found['high']:+.4f}{real})"
