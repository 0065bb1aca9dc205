"""How tables are printed: titles are data, so nothing in them is markup, an emoji or a number."""

from rich.console import Console

console = Console(markup=False, highlight=False, emoji=False)
