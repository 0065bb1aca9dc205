"""What a cell of a file means. Each function raises `BadInput`: the field, and what is accepted."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, NoReturn

from sql.ids import BadInput

SECONDS_BELOW = 10**11
"""A number below is seconds since 1970 (until the year 5138), one from there on milliseconds (from
March 1973). A column in milliseconds whose times lie before that must be converted first."""

MAX_YEAR_MS = 4_102_444_800_000  # 2100-01-01: what is later was read in a wrong unit
TIMES_ACCEPTED = (
    "seconds or milliseconds since 1970 UTC, or ISO 8601 (without a zone: UTC), 1970 to 2099"
)
_TRUE = frozenset({"true", "1", "yes", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "f", "n"})


def is_missing(value: Any) -> bool:
    """Whether a cell says nothing: empty, null, or the NaN that pandas writes for null."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def as_text(field: str, value: Any) -> str:
    """Text as it is; a whole number as its digits (pandas makes 50.0 of the id 50)."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(field, value, "text")
    return str(int(value)) if float(value).is_integer() else str(value)


def as_number(field: str, value: Any) -> float:
    """A finite number."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(field, value, "a finite number")
    return number


def as_int(field: str, value: Any) -> int:
    """A whole number."""
    number = as_number(field, value)
    if not number.is_integer():
        raise BadInput(field, value, "a whole number")
    return int(value) if isinstance(value, int | str) and _is_digits(value) else int(number)


def as_bool(field: str, value: Any) -> bool:
    """A truth value."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise BadInput(field, value, "true or false")
    return word in _TRUE


def as_time_ms(field: str, value: Any, *, earliest_ms: int = 0) -> int:
    """Milliseconds since 1970 UTC; see SECONDS_BELOW for bare numbers."""
    at_ms = _time_ms(value)
    if at_ms is None or not earliest_ms <= at_ms < MAX_YEAR_MS:
        raise BadInput(field, value, TIMES_ACCEPTED)
    return at_ms


def as_list(value: Any, separator: str | None) -> Any:
    """A list of texts where the cell is one, or a separator was given for it."""
    if isinstance(value, str) and separator is not None:
        return [part.strip() for part in value.split(separator) if part.strip()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(part) for part in value if part is not None]
    return value


def as_object(field: str, value: Any) -> dict[str, Any]:
    """An object by name: also one that a text holds as JSON (CSV), or pairs (Parquet's map)."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except (ValueError, RecursionError):
            raise BadInput(field, value, "a JSON object") from None
    if isinstance(value, list) and all(isinstance(p, tuple) and len(p) == 2 for p in value):
        value = dict(value)
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise BadInput(field, value, "a JSON object")
    return dict(value)


def parse_json(text: str) -> Any:
    """JSON as the API reads it: no NaN, no key twice. Raises ValueError, RecursionError."""
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_each_key_once)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:100]!r} is there twice")
    return found


def _time_ms(value: Any) -> int | None:
    if isinstance(value, str):
        value = value.strip()
        try:
            value = float(value)
        except ValueError:
            return _iso_ms(value)
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    if isinstance(value, date):
        return round(datetime.combine(value, time(), UTC).timestamp() * 1000)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(value * 1000) if abs(value) < SECONDS_BELOW else round(value)


def _iso_ms(text: str) -> int | None:
    try:
        return _time_ms(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None


def _is_digits(value: int | str) -> bool:
    return isinstance(value, int) or value.strip().lstrip("+-").isdigit()
