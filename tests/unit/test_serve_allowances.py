"""What a key and a user may ask: whoever obeys Retry-After is answered."""

import pytest

from serve.allowances import Allowances
from serve.problems import ProblemError
from serve.settings import ServeSettings
from sql.keys import ApiKey


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def key(per_minute: int) -> ApiKey:
    return ApiKey("shop", frozenset({"recommend:read"}), per_minute, 0, None, "0" * 64)


@pytest.mark.parametrize(("per_minute", "users"), [(5, 3), (30, 10), (60, 60), (250, 100), (3, 2)])
def test_a_post_for_many_that_comes_back_when_told_is_answered(per_minute: int, users: int) -> None:
    clock = Clock()
    allowances, shop = Allowances(ServeSettings(), clock), key(per_minute)
    names = [f"u{number}" for number in range(users)]

    def wait_s() -> int:
        """0 where it was answered."""
        try:
            allowances.take_request(shop)
            allowances.take_lists(shop, names)
        except ProblemError as problem:
            return problem.retry_after_s or 0
        return 0

    began_s, answered, refused = clock.now_s, 0, 0
    while clock.now_s - began_s < 1_200:
        told_s = wait_s()
        clock.now_s += told_s
        answered, refused = (answered, refused + 1) if told_s else (answered + 1, 0)
        assert refused <= 2, "once for the request, once for the lists in it"
    assert answered * users >= 0.5 * 20 * per_minute


def test_one_user_who_asks_too_much_does_not_use_up_the_key() -> None:
    allowances, shop = Allowances(ServeSettings(user_lists_per_minute=100), Clock()), key(600)
    allowances.take_lists(None, ["hot"] * 100)
    others = [f"u{number}" for number in range(90)]
    for _ in range(20):
        allowances.take_request(shop)
        with pytest.raises(ProblemError, match="too many lists of one user"):
            allowances.take_lists(shop, ["hot", *others])
    allowances.take_lists(shop, others)
