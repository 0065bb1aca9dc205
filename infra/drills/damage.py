"""How a file goes bad: a byte that flips, or an end that is cut off."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["flip", "cut"]


class Damage(NamedTuple):
    """`flip`: the byte at `place` is another, by the bits of `mask`; `cut`: the file ends there."""

    kind: Kind
    place: int
    mask: int

    def of(self, content: bytes) -> bytes:
        """The damaged bytes."""
        if self.kind == "cut":
            return content[: self.place]
        flipped = bytes([content[self.place] ^ self.mask])
        return content[: self.place] + flipped + content[self.place + 1 :]


def draw(rng: np.random.Generator, size: int, count: int) -> list[Damage]:
    """`count` damages of a file of `size` bytes, both ends among them."""
    places = [0, size - 1, *rng.integers(size, size=max(0, count - 2)).tolist()][:count]
    kinds: tuple[Kind, Kind] = ("flip", "cut")
    return [
        Damage(kinds[number % 2], place, 1 << int(rng.integers(8)))
        for number, place in enumerate(places)
    ]


@contextmanager
def damaged(path: Path, damage: Damage) -> Iterator[None]:
    """The file is damaged for as long as the block lasts. It is another file then (a new inode):
    who has the old one mapped keeps the right bytes."""
    whole = path.read_bytes()
    _put(path, damage.of(whole))
    try:
        yield
    finally:
        _put(path, whole)


def _put(path: Path, content: bytes) -> None:
    beside = path.with_name(f"{path.name}.beside")
    mode = path.stat().st_mode
    beside.write_bytes(content)
    beside.chmod(mode)
    beside.rename(path)
