"""Since when something goes wrong: from the first time on, until it was not met for a while."""

from sqlalchemy import create_engine

from serve.counts import ERRORS, OTHER_ROUTE, OVER_MS, Counts
from serve.write_behind import WriteBehind
from sql.exposures import Exposure


def test_a_trouble_began_when_it_was_first_met_and_is_over_when_it_is_met_no_more() -> None:
    clock = [1_000]
    counts = Counts(lambda: clock[0])
    counts.mark(["shard_gone"])
    for _ in range(3):
        clock[0] += OVER_MS
        counts.mark(["shard_gone"])
    assert counts.troubles.since_ms() == {"shard_gone": 1_000}
    clock[0] += OVER_MS + 1
    assert counts.troubles.since_ms() == {}
    counts.mark(["shard_gone"])
    assert counts.troubles.since_ms() == {"shard_gone": clock[0]}


def test_answers_5xx_are_a_trouble_and_others_are_none() -> None:
    counts = Counts(lambda: 7)
    assert counts.recent.counted() == {}
    counts.answer("/v1/events", "POST", 422, 0.1)
    counts.answer(OTHER_ROUTE, "other", 503, 0.1)
    assert counts.troubles.since_ms() == {}
    counts.answer("/v1/events", "POST", 503, 0.1)
    assert counts.troubles.since_ms() == {ERRORS: 7}


def test_the_first_record_that_was_dropped_has_its_time() -> None:
    clock = [5]
    records = WriteBehind(create_engine("sqlite://"), 0, now_ms=lambda: clock[0])
    assert records.dropped_at_ms is None
    for clock[0] in (8, 9):
        records.expose(lambda: Exposure("r", None, "g", 0, 0, 1, [], [], {}))
    assert (records.dropped, records.dropped_at_ms) == (2, 8)


def test_what_went_wrong_is_a_share_of_what_ended_in_five_minutes() -> None:
    clock = [60_000 * 10]
    counts = Counts(lambda: clock[0])
    route = "/v1/users/{user_id}/recommendations"
    for seconds in (0.1, 0.6):
        counts.answer(route, "GET", 200, seconds)
    counts.answer("/v1/events", "POST", 503, 0.1)
    counts.visible(0.2, clock[0])
    told = {"errors": (3, 1), "slow_lists": (2, 1), "slow_events": (1, 0)}
    assert counts.recent.counted() == told
    assert counts.troubles.since_ms().keys() == {"errors", "slow_lists"}
    clock[0] += 60_000 * 4
    counts.visible(2.0, clock[0])
    assert counts.recent.counted() == {**told, "slow_events": (2, 1)}
    clock[0] += 60_000
    assert counts.recent.counted() == {"slow_events": (1, 1)}
