"""Commands that are imported when they run, and the one edge where an error becomes a message."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Entry(NamedTuple):
    """Where a command is, and what the list of commands says of it."""

    module: str
    help: str
    attribute: str = "command"
    """A function, or a `typer.Typer` for a group of commands."""


def load(path: str) -> Any:
    """The attribute of `package.module:attribute`, imported now.

    For what must not be imported with the module that uses it, because it costs seconds (torch) or
    reads the environment when it is imported (Ray).
    """
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def say(error: Exception) -> None:
    """The message and the hint, on stderr."""
    typer.secho(f"error: {error}", fg="red", err=True)
    hint = getattr(error, "hint", None)
    if hint and str(hint) not in str(error):
        typer.secho(f"hint: {hint}", fg="yellow", err=True)


class LazyCommand(TyperCommand):
    """Stands in the list of commands; becomes the real command when it is used."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, help=entry.help)
        self._entry = entry

    def resolve(self) -> Any:
        """The real command, its module imported."""
        found = load(f"{self._entry.module}:{self._entry.attribute}")
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        single = typer.Typer(
            add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
        )
        single.command(name=self.name)(found)
        return typer.main.get_command(single)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Of the real command: parsing, help and running are its own from here on."""
        return self.resolve().make_context(*arguments, **options)


class LazyCommands(TyperGroup):
    """A group that knows its commands by `entries`."""

    entries: Mapping[str, Entry] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: LazyCommand(name, entry) for name, entry in self.entries.items()}

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Expected errors end with a message, a hint and status 1, or the
        `exit_status` that they have."""
        try:
            return super().invoke(ctx)
        except Exception as error:  # the edge: what is not expected goes on
            if ctx.params.get("debug") or not _is_expected(error):
                raise
            say(error)
            raise typer.Exit(getattr(error, "exit_status", 1)) from error


def _is_expected(error: Exception) -> bool:
    """Errors of our trees carry a `hint`; ValueError is bad input, OSError a file or a socket."""
    return hasattr(error, "hint") or isinstance(error, ValueError | OSError)
