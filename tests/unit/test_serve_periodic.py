"""A replica's thread outlives a round that fails, and ends when it is asked to."""

import logging
import threading

import pytest

from serve.periodic import Periodic
from sql.errors import StoreError


@pytest.mark.parametrize(
    ("failure", "level"),
    [(StoreError("away", hint="none"), logging.INFO), (ValueError("a bug"), logging.ERROR)],
)
def test_a_round_that_fails_is_logged_and_the_next_one_comes(
    failure: Exception, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    rounds = 0

    def round_() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise failure
        done.set()

    caplog.set_level(logging.INFO)
    periodic = Periodic("rounds-of-a-test", 0.001, round_, logging.INFO)
    periodic.start()
    assert done.wait(10)
    periodic.stop()
    assert caplog.records[0].levelno == level
    assert "rounds-of-a-test" in caplog.text
    assert "rounds-of-a-test" not in {thread.name for thread in threading.enumerate()}
