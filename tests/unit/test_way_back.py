"""What a rollback goes to, by the pointer's history alone."""

import pytest

from sql.generations import LivePointer, way_back


def flips(story: str) -> list[LivePointer]:
    """`a b <a -a`: a and b were published, a was rolled back to, the hold was cleared."""
    made: list[LivePointer] = []
    for number, word in enumerate(story.split(), 1):
        name = word.lstrip("<-")
        before = made[-1].generation_id if made else None
        made.append(LivePointer(number, name, before, "ann", "x", number, word.startswith("<")))
    return made[::-1]


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ("", None),
        ("a", None),
        ("a b", "a"),
        ("a b c", "b"),
        ("a b <a", None),
        ("a b <a -a", None),
        ("a b c <b -b", "a"),
        ("a b c <b -b <a -a", None),
        ("a b c <b -b d", "b"),
        ("a b <a -a b", "a"),
        ("a b c <a -a", None),
        ("a b c a", "c"),
        ("a b <b", "a"),
        ("a b <a -a <b", "a"),
        ("a b c <b <c", "b"),
    ],
)
def test_never_what_was_rolled_back_from(story: str, expected: str | None) -> None:
    assert way_back(flips(story)) == expected


def test_of_a_history_that_was_cut_the_first_flip_says_what_was_before() -> None:
    assert way_back(flips("a b c <b -b")[:-1]) == "a"
