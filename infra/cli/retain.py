"""`moonlark retain`: delete what is older than the settings say."""

import typer
from tqdm import tqdm

from infra.cli.store import now_ms, open_store
from sql.retention import Trim, retain
from sql.settings import RetentionSettings


def command() -> None:
    """Delete old events, exposures and counts.

    How old is set by MOONLARK_RETAIN_EVENTS_DAYS, _TEXT_DAYS, _EXPOSURES_DAYS and _ACTIVITY_DAYS
    (a number, or `never`). Dislikes and hides in force stay. It runs beside the day's traffic, in
    small transactions; broken off, it goes on where it was.

    Exit status: 0 all that is too old is deleted, also where that was nothing; 1 where the
    database or a setting stood in the way; 130 after Ctrl-C.
    """
    settings = RetentionSettings()
    with tqdm(desc="rows", unit=" rows", disable=None) as bar:
        trim = Trim(progress=bar.update)
        report = retain(open_store().engine, settings, now_ms=now_ms(), trim=trim)
    typer.echo("deleted: " + ", ".join(f"{n:,} {what}" for what, n in report.items()))
