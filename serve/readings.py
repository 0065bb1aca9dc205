"""What the registry says, as readings of metrics: pure functions of its rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from serve import metric_names as names
from sql.generations import BY_NIGHT, Generation, LivePointer, Replica

NO_LABELS: Mapping[str, str] = MappingProxyType({})

FIGURES = {
    names.NDCG: "ndcg@10",
    names.RECALL: "index_recall",
    names.PARITY: "parity_max_abs_diff",
    names.CANARY: "canary_min_cosine",
}
"""Gauges that are metrics of the live generation as the night wrote them."""

WHY_FAILED = {"GateRefused": "gate", "DataRefused": "data", "StageFailed": "stage"}
"""Errors that end a night, by their class, as the label `why`; any other is "step"."""
AFTER_PUBLISH = "after_publish"
"""The label where a step failed after the publish: the generation stays what that made of it."""

STEPS = "steps"
"""Where the figures of a night's steps are, among a generation's metrics."""
CHECK = "check_"
"""How the figures of the data checks begin, among a generation's metrics."""

HOLDS = ("live", "older", "nothing")
HOLDERS = ("night", "person")
ROLES = ("live", "previous", "staged")


class Reading(NamedTuple):
    """A gauge's value, what a counter counted since the last one, or one observation."""

    name: str
    value: float
    labels: Mapping[str, str] = NO_LABELS


def of_the_registry(
    pointer: LivePointer | None,
    known: Sequence[Generation],
    leases: Sequence[Replica],
    now_ms: int,
) -> Iterator[Reading]:
    """What is live and how good, which nights failed since, who can answer."""
    live = next((g for g in known if pointer and g.generation_id == pointer.generation_id), None)
    yield from _of_leases(live, leases)
    yield from _of_nights(live, known, now_ms)
    yield from _of_days(known)
    yield from _of_checks(known)
    yield from _of_steps(known)
    if pointer is None or live is None:
        return
    by = holder(pointer)
    for who in HOLDERS:
        yield Reading(names.HOLD, who == by, {"set_by": who})
    yield Reading(names.AGE, (now_ms - live.created_at_ms) / 1000)
    for name, figure in FIGURES.items():
        value = live.metrics.get(figure)
        if isinstance(value, int | float):
            yield Reading(name, float(value))
    yield from _of_the_last_look(pointer, live, now_ms)


def of_refusals(
    pointer: LivePointer, known: Sequence[Generation], refused: Mapping[str, str]
) -> Iterator[Reading]:
    """How many generations a replica could not load, by what they are to it."""
    staged = {g.generation_id for g in known if g.state == "staged"}
    of_role = {
        "live": refused.keys() & {pointer.generation_id},
        "previous": refused.keys() & {pointer.previous},
        "staged": refused.keys() & staged,
    }
    for role in ROLES:
        yield Reading(names.REFUSED, len(of_role[role]), {"role": role})


def of_erasures(open_since_ms: int | None, now_ms: int) -> Reading:
    """For how long the oldest erasure that is not completed waits (`sql.erasure_receipts`)."""
    open_ms = 0 if open_since_ms is None else max(0, now_ms - open_since_ms)
    return Reading(names.ERASURE_OPEN, open_ms / 1000)


def _of_leases(live: Generation | None, leases: Sequence[Replica]) -> Iterator[Reading]:
    holding = dict.fromkeys(HOLDS, 0)
    for lease in leases:
        if live is not None and live.generation_id in lease.ready:
            holding["live"] += 1
        else:
            holding["older" if lease.ready else "nothing"] += 1
    for holds, n in holding.items():
        yield Reading(names.REPLICAS, n, {"holds": holds})


def _of_nights(
    live: Generation | None, known: Sequence[Generation], now_ms: int
) -> Iterator[Reading]:
    failed = dict.fromkeys((*WHY_FAILED.values(), "step", AFTER_PUBLISH), 0)
    silent_ms = 0
    for generation in unmended(live, known):
        why = why_failed(generation)
        if why is not None:
            failed[why] += 1
        elif generation.state == "building":
            silent_ms = max(silent_ms, now_ms - generation.reported_at_ms)
    yield Reading(names.NIGHT_SILENT, silent_ms / 1000)
    for why, n in failed.items():
        yield Reading(names.NIGHTS_FAILED, n, {"why": why})


def unmended(live: Generation | None, known: Sequence[Generation]) -> Iterator[Generation]:
    """What is live, and the nights since it was made: what failed before it is mended.

    Of a rebuild, as long as it is not live, whoever asked for it sees the failed run. One that was
    live and was gone back from is told by its hold.
    """
    since_ms = live.created_at_ms if live else 0
    for generation in known:
        is_told_elsewhere = generation.is_rebuild or generation.state == "published"
        is_since = generation.created_at_ms > since_ms and not is_told_elsewhere
        if generation == live or is_since:
            yield generation


def why_failed(generation: Generation) -> str | None:
    """The label `why` of one that failed, or whose night did after the publish; None of others."""
    if generation.state == "failed":
        return WHY_FAILED.get(str(generation.metrics.get("failed_as")), "step")
    left = generation.unfinished
    if left is None or left.is_tried_again or generation.state == "pruned":
        return None
    return AFTER_PUBLISH


def holder(pointer: LivePointer) -> str | None:
    """Who set the hold: the night's own check after its publish, or a person; None without one."""
    if not pointer.hold:
        return None
    return "night" if pointer.who == BY_NIGHT else "person"


def verified_at_ms(pointer: LivePointer, live: Generation) -> int:
    """When the live generation was last looked at; before the first time, when it went live."""
    return max(pointer.at_ms, live.verified.at_ms if live.verified else 0)


def _of_the_last_look(pointer: LivePointer, live: Generation, now_ms: int) -> Iterator[Reading]:
    yield Reading(names.LIVE_UNVERIFIED, (now_ms - verified_at_ms(pointer, live)) / 1000)
    found = live.verified
    yield Reading(names.LIVE_BROKEN, found is not None and found.broken is not None)
    if found is not None and found.recall is not None:
        yield Reading(names.LIVE_RECALL, found.recall)


def _of_days(known: Sequence[Generation]) -> Iterator[Reading]:
    """A night looks back on the day of the generation that it replaces."""
    days = [generation for generation in known if "day" in generation.metrics]
    if days:
        day = max(days, key=lambda generation: generation.created_at_ms).metrics["day"]
        yield Reading(names.DAY_NDCG, float(day["ndcg@10"]), {"of": "live"})
        yield Reading(names.DAY_NDCG, float(day["frozen_ndcg@10"]), {"of": "frozen"})


def _of_checks(known: Sequence[Generation]) -> Iterator[Reading]:
    """Of the newest night that looked at its data, also where it was refused for that."""
    for name, value in _of_newest_night(known, lambda name: name.startswith(CHECK)):
        if value is not None:
            yield Reading(names.NIGHT_CHECK, value, {"check": name.removeprefix(CHECK)})


def _of_steps(known: Sequence[Generation]) -> Iterator[Reading]:
    """Of the newest night that did one, whatever became of it."""
    for _, steps in _of_newest_night(known, lambda name: name == STEPS):
        for step, told in steps.items():
            labels = {"step": step}
            yield Reading(names.STEP_DURATION, float(told["seconds"]), labels)
            if told.get("rows") is not None:
                yield Reading(names.STEP_ROWS, float(told["rows"]), labels)


def _of_newest_night(
    known: Sequence[Generation], is_asked_for: Callable[[str], bool]
) -> list[tuple[str, Any]]:
    """The metrics asked for, of the newest night that has any. A rebuild is no night."""
    nights = (generation for generation in known if not generation.is_rebuild)
    for night in sorted(nights, key=lambda each: each.created_at_ms, reverse=True):
        if found := [(name, told) for name, told in night.metrics.items() if is_asked_for(name)]:
            return found
    return []
