"""MovieLens 100K as items and events, read from RecBole's atomic files.

`ml-100k.item` and `ml-100k.inter` are tab-separated with a typed header line. Items keep the
file's order; events are sorted by time, ties in file order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.datasets.errors import DatasetUnreadable

# Genres of two words: the file separates genres by a space.
ITEM_COLUMNS = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
EVENT_COLUMNS = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
_ARTICLES = ("The", "A", "An", "Le", "La", "Les", "L'", "Il", "Das", "Der", "Die", "El", "Los")


@dataclass(frozen=True, slots=True)
class Item:
    """A film, in the shape of the catalog's ItemBody."""

    item_id: str
    title: str
    text: str
    category: str | None
    attributes: dict[str, list[str] | int]


@dataclass(frozen=True, slots=True)
class Event:
    """One rating: `value` is 1..5 stars, the time in milliseconds since 1970."""

    user_id: str
    item_id: str
    kind: str
    value: float
    occurred_at_ms: int


@dataclass(frozen=True, slots=True)
class MovieLens:
    """1,682 films and 100,000 ratings of 943 users, in order of time."""

    items: tuple[Item, ...]
    events: tuple[Event, ...]


def read_movielens(folder: Path) -> MovieLens:
    """Read `*.item` and `*.inter` in `folder`.

    Raises:
        DatasetUnreadable: a file is absent, or a line of it has another shape.
    """
    items = tuple(_item(row) for row in _rows(folder / "ml-100k.item", ITEM_COLUMNS))
    events = [_event(row) for row in _rows(folder / "ml-100k.inter", EVENT_COLUMNS)]
    events.sort(key=lambda event: event.occurred_at_ms)  # stable: ties stay in file order
    return MovieLens(items, tuple(events))


def _item(row: list[str]) -> Item:
    item_id, title, year, classes = row
    genres = classes.split()
    attributes: dict[str, list[str] | int] = {"genres": list(genres)}
    if year.isdigit():
        attributes["year"] = int(year)
    facts = [", ".join(genres), f"({year})" if year.isdigit() else ""]
    return Item(
        item_id=item_id,
        title=_natural_title(title) or f"Film {item_id}",
        text=" ".join(fact for fact in facts if fact),
        category=genres[0] if genres else None,
        attributes=attributes,
    )


def _natural_title(title: str) -> str:
    """ "Usual Suspects, The" -> "The Usual Suspects": what BERT has read elsewhere."""
    head, comma, article = title.strip().rpartition(", ")
    return f"{article} {head}" if comma and article in _ARTICLES else title.strip()


def _event(row: list[str]) -> Event:
    user_id, item_id, rating, seconds = row
    return Event(user_id, item_id, "rating", float(rating), round(float(seconds) * 1000))


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[list[str]]:
    if not path.is_file():
        raise DatasetUnreadable(path, "no such file")
    with path.open(encoding="utf-8") as lines:
        header = next(lines, "").rstrip("\r\n").split("\t")
        if tuple(header) != columns:
            raise DatasetUnreadable(path, f"columns {header}, expected {list(columns)}")
        for number, line in enumerate(lines, start=2):
            row = line.rstrip("\r\n").split("\t")
            if len(row) != len(columns):
                raise DatasetUnreadable(path, f"line {number} has {len(row)} columns")
            yield row
