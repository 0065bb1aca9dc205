"""`moonlark doctor`: what is wrong, since when, what users see, and the runbook."""

import json
from typing import Annotated, Any

import typer

from infra import runbooks
from infra.cli.console import console
from infra.cli.settings import CliSettings
from infra.cli.store import now_ms
from infra.cli.times import ago, as_utc
from infra.doctor.artefacts import look_at_artefacts
from infra.doctor.day import NOTHING_KNOWN, look_at_day
from infra.doctor.findings import Look, NotSeen, agreed
from infra.doctor.store import known_to, look_at_store, open_store
from sql.settings import StoreSettings

WELL, WRONG, NOT_SEEN = 0, 1, 3
"""Exit statuses; 2 is a command line that cannot be read."""


def command(
    url: Annotated[
        str | None, typer.Option(help="The API; default MOONLARK_URL.", show_default=False)
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every file of large generations, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Say what is wrong, and which runbook mends it.

    Of each fault: since when, what users see. Looks at the database, the live pointer, leases,
    nights, digests, disk and the API, in seconds; changes nothing. Exit status: 0 all is well,
    1 something is wrong, 3 nothing wrong was found but not everything could be looked at.
    """
    look = _look(url, deep=deep)
    if as_json:
        typer.echo(json.dumps(_document(look), indent=2))
    else:
        _tell(look)
    raise typer.Exit(WRONG if look.findings else NOT_SEEN if look.not_seen else WELL)


def _look(url: str | None, *, deep: bool) -> Look:
    settings, store = CliSettings(), StoreSettings()
    engine, look = open_store(store.database_url)
    known = NOTHING_KNOWN
    if engine is None:
        behind = NotSeen("generations, nights and their files", "the database says where they are")
        look += Look(not_seen=(behind,))
    else:
        look += look_at_store(engine)
        if not any(finding.runbook == "DatabaseGone" for finding in look.findings):
            known = known_to(engine)
            look += look_at_artefacts(
                engine, store.artifact_root, deep=deep, artifact_uri=store.artifact_uri
            )
    key = settings.api_key.get_secret_value() if settings.api_key else None
    look += look_at_day(url or settings.url, key, known=known)
    if engine is not None:
        engine.dispose()
    return agreed(look)


def _document(look: Look) -> dict[str, Any]:
    return {
        "well": not look.findings and not look.not_seen,
        "findings": [
            {
                "name": finding.runbook,
                "what": finding.what,
                "since": None if finding.since_ms is None else as_utc(finding.since_ms),
                "users": finding.users,
                "runbook": runbooks.read(finding.runbook).path,
            }
            for finding in look.findings
        ],
        "not_looked_at": [{"what": each.what, "why": each.why} for each in look.not_seen],
        "well_are": list(look.seen),
    }


def _tell(look: Look) -> None:
    at_ms = now_ms()
    for each in look.findings:
        since = "nobody knows since when" if each.since_ms is None else ago(each.since_ms, at_ms)
        console.print(each.runbook, f"({since})", style="bold red")
        for name, said in (
            ("what", each.what),
            ("users", each.users),
            ("runbook", runbooks.read(each.runbook).path),
        ):
            console.print(f"  {name:<8} {said}", soft_wrap=True)
    for unseen in look.not_seen:
        console.print(f"not looked at: {unseen.what} ({unseen.why})", soft_wrap=True)
    if look.seen:
        console.print(f"well: {'; '.join(look.seen)}", soft_wrap=True)
