"""What the whole history says, against the dense autoencoder and the primal regression."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_jobs.ranking import whole_history as module
from ray_jobs.ranking.whole_history import WholeHistory, learn_whole_history

SPAN = 9
RIDGE, LATE_RIDGE = 1.5, 0.7
"""As small as these logs: with the shipped ones a wrong sum would differ by nothing."""

pairs = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, SPAN - 1)), max_size=80)
seen_items = st.sets(st.integers(-2, SPAN + 2), max_size=8)


@pytest.fixture(autouse=True)
def small_ridges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RIDGE", RIDGE)
    monkeypatch.setattr(module, "LATE_RIDGE", LATE_RIDGE)


def learned(log: list[tuple[int, int]]) -> WholeHistory:
    users, items = (np.array([pair[n] for pair in log], np.int64) for n in (0, 1))
    return learn_whole_history(users, items, SPAN)


def table(log: list[tuple[int, int]], users: list[int]) -> np.ndarray:
    seen = np.zeros((len(users), SPAN))
    for user, item in log:
        seen[users.index(user), item] = 1
    return seen


def together(log: list[tuple[int, int]]) -> np.ndarray:
    seen = table(log, sorted({user for user, _ in log}))
    inverse = np.linalg.inv(seen.T @ seen + RIDGE * np.eye(SPAN))
    weights = -inverse / np.diag(inverse)
    return weights


def lately(log: list[tuple[int, int]]) -> np.ndarray:
    users = sorted({user for user, _ in log})
    cut = len(log) - len(log) // 10
    had = table(log[:cut], users)
    new = table(log[cut:], users) * (1 - had)
    active = had.any(axis=1) & new.any(axis=1)
    had, new = had[active], new[active]
    return np.linalg.solve(had.T @ had + LATE_RIDGE * np.eye(SPAN), had.T @ new)


ON_EACH = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ON_EACH
@given(log=pairs, seen=seen_items)
def test_it_says_what_the_dense_models_say(log: list[tuple[int, int]], seen: set[int]) -> None:
    found = learned(log)
    assert found.items_M.tolist() == sorted({item for _, item in log})
    said = found.says(np.array(sorted(seen), np.int64), found.items_M)
    known = sorted(seen & set(found.items_M.tolist()))
    late = lately(log)[known].sum(axis=0)[found.items_M] if log else np.zeros(0)
    np.testing.assert_allclose(said[:, 1], late, atol=1e-4)
    # All factors but one: the rank of a table is one less than its smaller side at most here.
    rank = np.linalg.matrix_rank(table(log, sorted({user for user, _ in log}))) if log else 0
    if found.factors_MK.shape[1] < rank:
        return
    right = together(log)[known].sum(axis=0) if log else np.zeros(SPAN)
    others = ~np.isin(found.items_M, known)
    np.testing.assert_allclose(said[others, 0], right[found.items_M][others], atol=1e-3)


def test_of_what_nobody_took_it_says_nothing() -> None:
    found = learned([(user, item) for user in range(9) for item in (1, 3)])
    assert found.says(np.array([1, 7]), np.array([0, 2, 8])).tolist() == [[0, 0]] * 3
    assert found.says(np.array([0, 7]), np.array([1, 3])).tolist() == [[0, 0]] * 2
    assert WholeHistory.nobody().says(np.array([1]), np.array([1])).tolist() == [[0, 0]]


def test_both_models_tell_apart_what_goes_together() -> None:
    """Two circles of users, each with three items of its own, and lately each takes a fourth."""
    circles = [(user, 3 * (user % 2) + item) for user in range(40) for item in range(3)]
    later = [(user, 6 + user % 2) for user in range(12)]
    found = learned([*circles, *later])
    said = found.says(np.array([0, 1]), found.items_M)
    of = dict(zip(found.items_M.tolist(), said.tolist(), strict=True))
    assert of[2][0] > 0.3 > abs(of[3][0])
    assert of[6][1] > 0.3 > abs(of[7][1])


def test_an_item_of_the_last_days_counts_for_users_who_had_something_before() -> None:
    log = [(user, 0) for user in range(20)] + [(99, 1), (0, 1)]
    found = learned(log)
    assert found.late_items_C.tolist() == [1]
    # Only user 0, of all who had item 0, went on to 1; 99, who had nothing, teaches nothing.
    np.testing.assert_allclose(
        found.says(np.array([0]), np.array([1]))[0, 1], 1 / (1 + LATE_RIDGE), rtol=1e-5
    )


def test_bounds_keep_the_most_taken_items_and_the_last_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_ITEMS", 3)
    monkeypatch.setattr(module, "LATE_USERS", 2)
    monkeypatch.setattr(module, "LATE_ITEMS", 1)
    log = [(user, item) for item in range(5) for user in range(8 + item)]
    log += [(0, 5), (1, 5), (10, 2), (11, 2), (11, 3)]
    monkeypatch.setattr(module, "LATE_PAIRS", 5)
    found = learned(log)
    assert found.items_M.tolist() == [2, 3, 4]
    assert found.late_items_C.tolist() == [2]
    assert found.before_MJ.shape[1] <= 2


def test_parts_that_do_not_belong_together_are_refused() -> None:
    found = learned([(user, item) for user in range(9) for item in range(user)])
    with pytest.raises(ValueError, match="match"):
        WholeHistory(
            *(found.items_M[:-1], found.factors_MK, found.before_MJ),
            *(found.late_items_C, found.after_CJ),
        )
