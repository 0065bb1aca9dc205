"""Which column of a file is which field of the API.

A column with the name of a field is that field. `--map` names another column, `--default` gives a
value where a row has none, `--list` splits an attribute into a list, `--type` reads it as a number
or truth value (a CSV file knows only text).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from infra.ingest.errors import BadColumns
from infra.ingest.values import as_object, is_missing

ITEM_FIELDS = ("item_id", "title", "text", "category", "published_at", "available", "version")
EVENT_FIELDS = (
    "user_id",
    "item_id",
    "kind",
    "value",
    "text",
    "occurred_at",
    "event_id",
    "undoes",
    "surface",
)
ATTRIBUTES = "attributes"
_PREFIX = f"{ATTRIBUTES}."

AttributeType = Literal["text", "int", "float", "bool"]


@dataclass(frozen=True, slots=True)
class AttributeColumn:
    """An attribute that was named in an option: where it is, and how it is read."""

    columns: tuple[str, ...]
    separator: str | None
    type: AttributeType


@dataclass(frozen=True, slots=True)
class Columns:
    """The options, parsed. `sources`: field -> column, for the fields that were mapped."""

    sources: Mapping[str, str]
    defaults: Mapping[str, str]
    attributes: Mapping[str, AttributeColumn]

    @classmethod
    def parse(
        cls,
        maps: Sequence[str] = (),
        defaults: Sequence[str] = (),
        lists: Sequence[str] = (),
        types: Sequence[str] = (),
    ) -> "Columns":
        """From `field=column`, `field=value`, `attribute=separator` and `attribute=type`.

        Raises:
            BadColumns: one of them is malformed, or names no field.
        """
        sources = dict(_pair("--map", option) for option in maps)
        known = {*ITEM_FIELDS, *EVENT_FIELDS}
        for field in sources:
            if field not in known and not field.startswith(_PREFIX):
                raise BadColumns(f"--map {field}=...: no such field", [*known, "attributes.NAME"])
        given = dict(_pair("--default", option) for option in defaults)
        for field in given.keys() - known:
            raise BadColumns(f"--default {field}=...: no such field", sorted(known))
        separators = {_attribute(n): s for n, s in (_pair("--list", o) for o in lists)}
        named_types = {_attribute(n): _type(n, t) for n, t in (_pair("--type", o) for o in types)}
        mapped = {_attribute(f): c for f, c in sources.items() if f.startswith(_PREFIX)}
        attributes = {
            name: AttributeColumn(
                columns=(mapped[name],) if name in mapped else (_PREFIX + name, name),
                separator=separators.get(name),
                type=named_types.get(name, "text"),
            )
            for name in {*mapped, *separators, *named_types}
        }
        fields = {f: c for f, c in sources.items() if not f.startswith(_PREFIX)}
        return cls(fields, given, attributes)

    def of_each(self, *files: Sequence[str]) -> list["Columns"]:
        """For files that are read with the same options: a mapping is for those that have its
        column.

        Raises:
            BadColumns: a mapped column is in none of them.
        """
        known = [column for names in files for column in names]
        for field, column in self.sources.items():
            if column not in known:
                raise BadColumns(f"--map {field}={column}: no such column", known)
        return [
            replace(self, sources={f: c for f, c in self.sources.items() if c in names})
            for names in files
        ]

    def check(self, fields: Sequence[str], available: Sequence[str]) -> list[str]:
        """Compare with the columns of a file.

        Returns:
            the columns that are not used.

        Raises:
            BadColumns: a mapped column is not in the file.
        """
        wanted = {self.sources.get(field, field) for field in fields}
        for field in fields:
            if field in self.sources and self.sources[field] not in available:
                what = f"--map {field}={self.sources[field]}: no such column"
                raise BadColumns(what, list(available))
        if fields == ITEM_FIELDS:
            wanted |= self._check_attributes(available)
        return [column for column in available if column not in wanted]

    def pick(self, fields: Sequence[str], row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that `row` has, with the defaults in place of what is missing."""
        picked: dict[str, Any] = {}
        for field in fields:
            value = row.get(self.sources.get(field, field))
            if is_missing(value):
                value = self.defaults.get(field)
            if value is not None:
                picked[field] = value
        return picked

    def pick_attributes(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Raw values of the attributes: in an `attributes` object, `attributes.NAME`, options.

        Raises:
            BadInput: `attributes` is no object.
        """
        whole = row.get(ATTRIBUTES)
        picked = {} if is_missing(whole) else as_object(ATTRIBUTES, whole)
        for column, value in row.items():
            if column.startswith(_PREFIX):
                picked[column.removeprefix(_PREFIX)] = value
        for name, attribute in self.attributes.items():
            for column in attribute.columns:
                if column in row:
                    picked[name] = row[column]
                    break
        return {name: value for name, value in picked.items() if not is_missing(value)}

    def _check_attributes(self, available: Sequence[str]) -> set[str]:
        used = {c for c in available if c == ATTRIBUTES or c.startswith(_PREFIX)}
        for name, attribute in self.attributes.items():
            found = [column for column in attribute.columns if column in available]
            if not found and ATTRIBUTES not in available:
                what = f"attribute {name!r}: no column {' or '.join(attribute.columns)}"
                raise BadColumns(what, list(available))
            used.update(found[:1])
        return used


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise BadColumns(f"{option} {text!r}", "NAME=VALUE")
    return name, value


def _attribute(name: str) -> str:
    return name.removeprefix(_PREFIX)


def _type(name: str, text: str) -> AttributeType:
    if text not in get_args(AttributeType):
        raise BadColumns(f"--type {name}={text}", get_args(AttributeType))
    return cast(AttributeType, text)
