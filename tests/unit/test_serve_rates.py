"""A rate is kept to, says when to come back, and remembers no more than it may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.rates import Rates


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_of_one_minute_then_the_rate(clock: Clock) -> None:
    rates = Rates(10, clock)
    assert all(rates.take({"a": 1}, 60) is None for _ in range(60))
    name, wait_s = rates.take({"a": 1}, 60) or ("", 0.0)
    assert name == "a"
    assert wait_s == pytest.approx(1.0)
    clock.now_s += wait_s
    assert rates.take({"a": 1}, 60) is None
    assert rates.take({"a": 1}, 60) is not None
    assert rates.take({"b": 60}, 60) is None, "another name has a rate of its own"


def test_all_or_nothing_of_a_batch_is_counted(clock: Clock) -> None:
    rates = Rates(10, clock)
    rates.take({"a": 50}, 60)
    for _ in range(5):
        assert (rates.take({"a": 20, "b": 60}, 60) or ("",))[0] == "a"
    assert rates.take({"a": 10, "b": 60}, 60) is None


def test_what_waited_as_long_as_it_was_told_is_let_in(clock: Clock) -> None:
    @given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 30)), max_size=30))
    def walk(steps: list[tuple[int, float]]) -> None:
        rates = Rates(10, clock)
        for cost, pause_s in steps:
            clock.now_s += pause_s
            refused = rates.take({"a": cost}, 100)
            if refused is not None:
                assert 0 < refused[1] <= 60
                clock.now_s += refused[1]
                assert rates.take({"a": cost}, 100) is None

    walk()


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 20)), max_size=60))
def test_never_more_than_two_minutes_worth_in_a_minute(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    rates, taken = Rates(10, clock), []
    for cost, pause_s in steps:
        clock.now_s += pause_s
        if rates.take({"a": cost}, 100) is None:
            taken.append((clock.now_s, cost))
    for end_s, _ in taken:
        assert sum(cost for at_s, cost in taken if end_s - 60 < at_s <= end_s) <= 200


def test_no_more_names_are_remembered_than_allowed_and_the_oldest_goes_first(clock: Clock) -> None:
    rates = Rates(3, clock)
    for name in "abcad":
        rates.take({name: 60}, 120)
    assert len(rates) == 3
    assert rates.take({"a": 1}, 120) is not None
    assert rates.take({"b": 120}, 120) is None, "forgotten"
