"""`moonlark erase`: forget a user, end what was begun, and prove it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from infra.cli.lazy import load
from infra.cli.settings import CliSettings
from infra.cli.store import Store, now_ms, open_store
from infra.stack.ray_state import read_state
from sql.erasure import Receipt, apply_ledger, erase_user
from sql.erasure_ledger import Ledger


def command(
    user: Annotated[str | None, typer.Argument(help="The id of the user to forget.")] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Rewrite every stored copy; complete the receipts.")
    ] = False,
    ledger: Annotated[
        bool,
        typer.Option("--apply-ledger", help="After a restore of the database: erase again."),
    ] = False,
    scan: Annotated[
        list[str] | None,
        typer.Option(help="Search this string in all that is stored; may be repeated."),
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the receipt to this file.")
    ] = None,
) -> None:
    """Erase a user, finish erasures, or prove it.

    `moonlark erase USER` removes the user at once and prints the receipt: what was removed, what
    is still to be rewritten, what cannot be. `--finish` rewrites the rest (the night's job does the
    same). `--apply-ledger` erases again whom a restored database knows again. `--scan TEXT` looks
    for a string everywhere.

    Exit status: 0 it is done, also where the user was unknown; 1 where an erasure is still open
    (`--finish`), a line of the ledger cannot be read, so that whom it names is not known
    (`--apply-ledger`; whom the sound lines name is erased), or the string is found (`--scan`).
    """
    if user is None and not (finish or ledger or scan):
        raise ValueError("whom to erase? USER, --finish, --apply-ledger or --scan TEXT")
    store = open_store()
    if ledger:
        _apply(store)
    if user is not None:
        receipt = erase_user(store.engine, Ledger.open(store.ledger_folder), user, at_ms=now_ms())
        _tell(receipt, json_path)
    if finish:
        _finish(store)
    if scan:
        _scan(store, scan)


def _apply(store: Store) -> None:
    with tqdm(desc="users", unit=" users", disable=None) as bar:
        ledger = Ledger.open(store.ledger_folder)
        erased = apply_ledger(store.engine, ledger, thorough=True, progress=bar.update)
    typer.echo(f"erased again: {erased:,} users")
    _, damaged = ledger.examine()
    for place in damaged:
        typer.echo(f"  {place}: not a sound line; whom it names is not known", err=True)
    if damaged:
        typer.echo("  bring the ledger back from a copy, then run this again", err=True)
        raise typer.Exit(1)


def _tell(receipt: Receipt, path: Path | None) -> None:
    rows = ", ".join(f"{n:,} {table}" for table, n in receipt.removed.items() if n)
    typer.echo(f"erasure {receipt.erasure_id}: {rows or 'nothing was stored'}")
    for line in receipt.to_rewrite:
        typer.echo(f"  to be rewritten: {line}")
    for line in receipt.cannot_rewrite:
        typer.echo(f"  not rewritten: {line}")
    if receipt.to_rewrite:
        typer.echo("next: moonlark erase --finish")
    if path is not None:
        content: dict[str, Any] = {
            "erasure_id": receipt.erasure_id,
            "erased_at_ms": receipt.erased_at_ms,
            "completed_at_ms": receipt.completed_at_ms,
            "erased": dict(receipt.removed),
            "to_rewrite": list(receipt.to_rewrite),
            "cannot_rewrite": list(receipt.cannot_rewrite),
            "generations": list(receipt.weights),
        }
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _finish(store: Store) -> None:
    rejected = CliSettings().state_dir / "rejected"
    for path in rejected.glob("*.jsonl"):
        path.unlink()  # rejected rows, and the reasons why, name users
    run = load("ray_jobs.nightly.erase_users:finish_erasures")
    report = run(
        store.engine,
        store.artifact_root.absolute(),
        now_ms=now_ms(),
        ledger_root=store.ledger_folder,
        artifact_uri=store.artifact_uri,
    )
    typer.echo(f"erasures: {report['completed']:,} completed, {report['open']:,} open")
    for generation in report["busy"]:
        typer.echo(f"  a step of the night {generation} is running: run this again after it")
    if report["open"]:
        raise typer.Exit(1)


def _scan(store: Store, canaries: list[str]) -> None:
    scanning = load("infra.cli.erase_scan:scan_files")
    state_dir = CliSettings().state_dir
    cluster = read_state(state_dir)
    paths = load("infra.cli.erase_scan:files_of")(
        store.engine, store.artifact_root, state_dir, cluster.temp_dir if cluster else None
    )
    found = list(load("infra.cli.erase_scan:scan_database")(store.engine, canaries))
    with tqdm(total=len(paths), desc="files", unit=" files", disable=None) as bar:
        found += scanning(paths, canaries, lambda _: bar.update())
    objects = load("ray_jobs.shards.object_store:ObjectStore").open(store.artifact_uri)
    looked_through = f"{len(paths):,} files and the database"
    if objects is not None:
        names = sorted(objects.sizes(""))
        bar = tqdm(names, "objects", unit=" objects", disable=None)
        found += load("infra.cli.erase_scan:scan_objects")(objects, bar, canaries)
        looked_through = f"{len(names):,} objects, {looked_through}"
    for place in found:
        typer.echo(place)
    typer.echo(f"{len(found)} places with it; {looked_through} looked through")
    if found:
        raise typer.Exit(1)
