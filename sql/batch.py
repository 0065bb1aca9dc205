"""A batch of rows as a relation in SQL, sent as one JSON parameter.

`(a, b) IN ((?, ?), (?, ?), ...)` has another text for each batch size, which neither SQLAlchemy nor
the database can cache, and a limit on its parameters. One JSON array has neither.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Label,
    Subquery,
    Table,
    Text,
    bindparam,
    cast,
    collate,
    column,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

PARAMETER = "batch"


def batch_of(dialect: str, **columns: type[int] | type[str]) -> Subquery:
    """A relation with the given columns, filled by the parameter that `batch_rows` makes."""
    if dialect == "postgresql":
        each = func.json_array_elements(cast(bindparam(PARAMETER, type_=Text), JSON))
        rows = each.table_valued(column("value", JSON), name="each").render_derived()
        picked: list[Label[Any]] = [
            (
                cast(rows.c.value.op("->>")(literal_column(str(i))), BigInteger)
                if kind is int
                else collate(type_coerce(rows.c.value.op("->>")(literal_column(str(i))), Text), "C")
            ).label(name)
            for i, (name, kind) in enumerate(columns.items())
        ]
    else:
        each = func.json_each(bindparam(PARAMETER, type_=Text))
        rows = each.table_valued(column("value", Text), name="each")
        picked = [
            type_coerce(
                func.json_extract(rows.c.value, literal_column(f"'$[{i}]'")),
                BigInteger if kind is int else Text,
            ).label(name)
            for i, (name, kind) in enumerate(columns.items())
        ]
    return select(*picked).select_from(rows).subquery(PARAMETER)


def batch_rows(rows: Iterable[Sequence[int | str]]) -> dict[str, str]:
    """The parameter that fills a `batch_of`."""
    return {PARAMETER: json.dumps([list(row) for row in rows], separators=(",", ":"))}


def insert_into(dialect: str, table: Table) -> Any:
    """An INSERT that knows ON CONFLICT (both databases have it, under one name, in two classes).

    Its `rowcount` can be read: SQLAlchemy keeps that of an INSERT only if asked, else it is -1 on
    Postgres.
    """
    statement = postgres_insert(table) if dialect == "postgresql" else sqlite_insert(table)
    return statement.execution_options(preserve_rowcount=True)


__all__ = ["PARAMETER", "batch_of", "batch_rows", "insert_into"]
