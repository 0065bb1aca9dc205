"""`moonlark`: the commands, in the order in which a newcomer needs them.

A command is a function `command` in `infra.cli.<module>`, or a group `app` there; its module is
imported when the command runs, so that `moonlark status` does not wait four seconds for torch and
Ray.
"""

from typing import Annotated

import typer

from infra.cli.lazy import Entry, LazyCommands

COMMANDS = {
    "init": Entry("infra.cli.init", "Make the database and the folders."),
    "ingest": Entry("infra.cli.ingest", "Read a catalog and events from files."),
    "night": Entry("infra.cli.night", "Make a generation and publish it."),
    "serve": Entry("infra.cli.serve", "Answer over HTTP, on this machine."),
    "down": Entry("infra.cli.down", "Stop what serve --detach started."),
    "recommend": Entry("infra.cli.recommend", "Show a user's list."),
    "explain": Entry("infra.cli.explain", "Rebuild a past answer and show why it was so."),
    "status": Entry("infra.cli.status", "Show what is stored, live and ready."),
    "doctor": Entry("infra.cli.doctor", "Say what is wrong, and which runbook mends it."),
    "generations": Entry("infra.cli.generations", "List what the nights made."),
    "policies": Entry("infra.cli.policies", "List the pins, boosts and seen settings."),
    "pin": Entry("infra.cli.pin", "Pin an item to a place of every list."),
    "boost": Entry("infra.cli.boost", "Boost an item, a category or an attribute."),
    "seen": Entry("infra.cli.seen", "Set what counts as seen in a category."),
    "unset": Entry("infra.cli.unset", "Take back a pin, a boost or a seen setting."),
    "publish": Entry("infra.cli.publish", "Make a generation live, or clear a hold."),
    "unlock": Entry("infra.cli.unlock", "End sessions that hold a lock and do nothing."),
    "keys": Entry("infra.cli.keys", "Make, list and revoke API keys.", attribute="app"),
    "rollback": Entry("infra.cli.rollback", "Make an earlier generation live again."),
    "erase": Entry("infra.cli.erase", "Erase a user, finish erasures, or prove it."),
    "retain": Entry("infra.cli.retain", "Delete old events, exposures and counts."),
    "parity": Entry("infra.cli.parity", "Compare what the day computes with the night."),
    "size": Entry("infra.cli.size", "Memory and CPU for a catalog, its users and a rate."),
    "evaluate": Entry("infra.cli.evaluate", "Measure the model on a data set."),
    "drill": Entry("infra.cli.drill", "Show that a promise holds while something happens."),
    "simulate": Entry(
        "infra.cli.simulate",
        "Run the shipped code through histories of faults.",
    ),
}


class MoonlarkCommands(LazyCommands):
    """The group with the commands above."""

    entries = COMMANDS


app = typer.Typer(
    name="moonlark",
    cls=MoonlarkCommands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.callback()
def moonlark(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, for a bug report.")
    ] = False,
) -> None:
    """A recommender that learns by night and listens by day.

    A first walk: init, ingest --dataset ml-100k, night, serve. Settings come from variables
    that begin with MOONLARK_, such as MOONLARK_DATABASE_URL.
    """


if __name__ == "__main__":
    app()
