"""What follows from the tables of ABLATIONS.md: the rows that beat what ships on validation.

Read from the page itself, so that tables that were not measured again count as well.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from infra.bench.accuracy_page import BY_CHANCE, TITLE

REASONS = """None was adopted. One seed cannot tell such differences from luck: the standard error
of a figure is about 0.009 (`ray_jobs/encoders/train_config.py`), and the best row is the luckiest
of many. By three seeds 24 epochs and sampled softmax stay ahead on validation, by less than one
such error. What else speaks:

- more epochs: a third to four fifths more time of training, every night, and nothing gained where
  tastes drift ("epochs and windows, before the cut"). Prototypes did better with few epochs there;
  measured, three lose.
- sampled softmax: ships above 20,000 items, with log Q. Below, all items cost little, and nothing
  is drawn.
- no dropout: dropout of residuals keeps the text useful, which new items depend on. Leave-one-out
  has no new items and cannot see what that is worth.
- ratings left out or replaced: within half a thousandth. Kinds of events tell 0.0013 less
  on validation and 0.0044 on the test, which may be chance;
  each public set has one kind alone, so that these kinds are made of its ratings. Wider states:
  two thirds more time.
- pooling, gates and what an item is, where items are new ("IFDB, the encoder", the same by torch):
  nothing is ahead of what ships but the gate that reads the cell, by 0.0003. Residuals alone find
  no new item (0.0004), texts alone what ships finds of them. Not measured there yet: the mean with
  that gate, and residuals gated by the item's events.
- texts without stop words or punctuation: lists of words are of one language each, and catalogs
  are of any.
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """A row of a table. `more`: against what ships, as it is written there."""

    name: str
    ndcg: str
    more: str
    validation: float


def rows_of(table: str) -> Iterator[Measured]:
    """The rows of a section; the first is what ships."""
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 7 and cells[5] not in ("validation", "---"):
            yield Measured(cells[1], cells[2], cells[4], float(cells[5]))


def ahead(table: str) -> list[Measured]:
    """Rows that beat what ships on validation, the best first."""
    shipped, *others = rows_of(table)
    better = [row for row in others if row.validation > shipped.validation]
    return sorted(better, key=lambda row: -row.validation)


def why(tables: Mapping[str, str]) -> str:
    """The last section of the page; `tables` by title."""
    lines = [f"{TITLE}What ships, and why", "", "Ahead of what ships on validation:", ""]
    real = []
    for title, table in tables.items():
        shipped, *_ = rows_of(table)
        told = [f"{row.name} {row.validation:.4f} (test {row.more})" for row in ahead(table)]
        lines.append(f"- {title}, {shipped.validation:.4f}: {'; '.join(told) or 'none'}.")
        real += [f"{row.name} ({title})" for row in ahead(table) if BY_CHANCE not in row.more]
    by_test = f"On the test these differ really from what ships: {', '.join(real) or 'none'}."
    return "\n".join([*lines, "", by_test, "", REASONS])
