"""Statements compiled once a dialect, and run without what SQLAlchemy does to each parameter.

A statement's text and the order of its parameters never change; binding a hundred rows of fifteen
values through SQLAlchemy took longer than SQLite needs to store them. Types are the driver's: what
goes in and comes out are numbers, texts, bytes and None, which both drivers take as they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect
from sqlalchemy.sql.elements import CompilerElement


class Prepared(NamedTuple):
    """A statement as the driver takes it. `order`: of parameters that have no names."""

    text: str
    given: Mapping[str, Any]
    """Parameters that SQLAlchemy adds by itself."""
    order: Sequence[str] | None

    def parameters(self, named: Mapping[str, Any]) -> Mapping[str, Any] | tuple[Any, ...]:
        """Those of one execution."""
        values = {**self.given, **named}
        return values if self.order is None else tuple([values[name] for name in self.order])


_kept: dict[tuple[str, int], tuple[CompilerElement, Prepared]] = {}
"""By dialect and statement; the statement is kept with it, so that its id stays its own."""


def prepared(dialect: Dialect, statement: CompilerElement) -> Prepared:
    """`statement` in that dialect. It is to be one that lives as long as the process."""
    key = dialect.name, id(statement)
    found = _kept.get(key)
    if found is None:
        compiled: Any = statement.compile(dialect=dialect)
        order = None if compiled.positiontup is None else tuple(compiled.positiontup)
        found = _kept[key] = statement, Prepared(str(compiled), compiled.params, order)
    return found[1]


def fetch(
    conn: Connection, statement: CompilerElement, named: Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    """All rows of one execution. Events and errors are SQLAlchemy's, as of any other."""
    found = prepared(conn.dialect, statement)
    result = conn.exec_driver_sql(found.text, found.parameters(named))
    cursor: Any = result.cursor  # its rows as they are: those of a result cost some us each
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    result.close()
    return rows


def run_each(
    conn: Connection,
    statement: CompilerElement,
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> int:
    """One execution a row of `rows`, whose values are of the parameters `names`; returns how many
    rows these changed together."""
    found = prepared(conn.dialect, statement)
    if found.order is None:
        each: list[Any] = [dict(zip(names, row, strict=True)) for row in rows]
    elif found.order == tuple(names):
        each = [tuple(row) for row in rows]
    else:
        places = [names.index(name) for name in found.order]
        each = [tuple([row[place] for place in places]) for row in rows]
    return int(conn.exec_driver_sql(found.text, each).rowcount) if each else 0
