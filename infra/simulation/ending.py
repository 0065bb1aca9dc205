"""What must hold when everything works again and nobody asks for anything any more."""

import hashlib
import json
from collections import Counter
from itertools import pairwise

import numpy as np

from infra.simulation.answers import TOLERANCE, asked_now, check_answer
from infra.simulation.nights import NIGHT
from infra.simulation.replica import Replica
from infra.simulation.scheduler import Violation
from infra.simulation.truth import Event
from infra.simulation.world import NEVER, Sent, World
from ray_jobs.encoders.session import Session
from ray_jobs.shards.manifest import MANIFEST_NAME
from serve.generation_watch import RETRY_REFUSED_AFTER
from serve.lists import ListQuery
from sql.erasure import apply_ledger
from sql.event_rules import HOUR_MS

PER_USER = ("events", "text_vectors", "sessions", "exposures")


def check_ending(world: World) -> None:
    """Settle, ask every replica for every user, compare all that is stored."""
    apply_ledger(world.engine, world.ledger)
    for replica in world.replicas:
        _settle(world, replica)
    for user_id in world.user_ids:
        for replica in world.replicas:
            asked = asked_now(world, user_id)
            query = ListQuery(k=1_000)
            answer = replica.recommend(user_id, query, f"end-{user_id}-{replica.name}")
            if answer.state.degraded:
                raise Violation(f"{replica.name} is still degraded: {answer.state.degraded}")
            check_answer(world, asked, query, answer)
    for replica in world.replicas:
        replica.write_behind.flush()
    check_log(world)
    check_erasures(world)
    check_sessions(world)
    check_activity(world)
    check_catalog(world)
    check_pointer(world)
    check_files(world)


def _settle(world: World, replica: Replica) -> None:
    for _ in range(RETRY_REFUSED_AFTER + 1):
        replica.watch.look()
        if not replica.watch.refused:
            break
    if replica.watch.refused:
        raise Violation(f"{replica.name} still refuses {replica.watch.refused}")
    replica.write_behind.flush()


def check_log(world: World) -> None:
    """Promise 2: everything acknowledged is there, once, as it was sent."""
    truth = world.truth
    keys: dict[str, list[int]] = {}
    for user_key, user_id in truth.rows("SELECT user_key, user_id FROM shadow_users"):
        keys.setdefault(user_id, []).append(user_key)
    logs = {key: truth.log(key) for many in keys.values() for key in many}
    for user_key, last_user_seq in truth.rows("SELECT user_key, last_user_seq FROM users"):
        if last_user_seq != len(logs[user_key]):
            raise Violation(f"user {user_key} is at {last_user_seq} of {len(logs[user_key])}")
    for key, log in logs.items():
        latest: dict[str, Event] = {}
        for event in log:
            before = latest.get(event.event_id)
            if before is not None and not before.gone_before(event):
                raise Violation(f"applied twice to {key}: {before}, {event}")
            latest[event.event_id] = event
    for sent in world.promises.sent.values():
        if sent.acked is not None:
            own = keys.get(sent.event.user_id, [])
            _check_stored(sent, [event for key in own for event in logs[key]])


def _check_stored(sent: Sent, log: list[Event]) -> None:
    """As it was sent; a second undo of the same event stands under the first one's id."""
    event = sent.event
    found = [e for e in log if e.event_id == event.event_id]
    if not found and event.kind == "undo":
        target = [e.user_seq for e in log if e.event_id == event.undoes]
        found = [e for e in log if e.undoes_seq in target and e.user_seq == sent.acked_seq]
        if found:
            return
    if not any(e.user_seq == sent.acked_seq for e in found):
        raise Violation(f"{event} was acknowledged at {sent.acked_seq}; the log has {found}")
    for e in found:
        stored = (e.kind, e.item_id, e.text, e.value)
        if stored != (event.kind, event.item_id, event.text, event.value):
            raise Violation(f"sent {event}, stored {e}")


def check_erasures(world: World) -> None:
    """Promise 7: no row of a user who was erased; what happened before does not come back."""
    truth = world.truth
    gone = "SELECT user_key FROM shadow_users WHERE gone = 1"
    for table in ("users", *PER_USER):
        left = truth.rows(f"SELECT count(*) FROM {table} WHERE user_key IN ({gone})")
        if left != [(0,)]:
            raise Violation(f"{left[0][0]} rows of erased users are left in {table}")
    for user_id in world.user_ids:
        late = truth.rows(
            "SELECT event_id FROM events JOIN users USING (user_key) "
            "WHERE user_id = ? AND occurred_at_ms <= ?",
            user_id,
            world.erased_at_ms(user_id),
        )
        if late:
            raise Violation(f"{late} of {user_id} happened before the erasure, and are back")
        told_ms = world.promises.user(user_id).forgotten_ms
        if told_ms > world.erased_at_ms(user_id):
            raise Violation(f"{user_id} was told to be forgotten, and is in no ledger")
        for start, end in world.promises.user(user_id).erasures:
            if end == NEVER:
                raise Violation(f"{user_id} asked at {start} to be forgotten, and never was")


def check_sessions(world: World) -> None:
    """Every stored session is the fold up to its number, and was only written forward."""
    truth = world.truth
    if backward := truth.rows("SELECT * FROM shadow_backward"):
        raise Violation(f"sessions written backward: {backward}")
    stored = truth.rows(
        "SELECT generation_id, user_key, user_seq, trimmed_seq, state FROM sessions"
    )
    for generation_id, user_key, user_seq, trimmed_seq, state in stored:
        session = Session.from_bytes(state)
        log = truth.log(user_key, user_seq)
        right = truth.fold(world.models[generation_id], log, trimmed_seq)
        same = (
            session.user_seq == user_seq == len(log)
            and session.steps == right.steps
            and set(session.seen.tolist()) == right.seen
            and set(session.excluded.tolist()) == right.excluded
            and tuple(session.recent.tolist()) == right.recent
            and np.allclose(session.h, right.h, atol=TOLERANCE)
            and np.allclose(session.c, right.c, atol=TOLERANCE)
            and np.allclose(session.pooled, right.pooled, atol=TOLERANCE)
        )
        if not same:
            raise Violation(f"session of {user_key} in {generation_id}: {session}, truth {right}")


def check_activity(world: World) -> None:
    """The counters are those of the whole log, of erased users too. An event on an id that was no
    item then has an ordinal, and no text: it is not counted."""
    truth = world.truth
    counts: Counter[tuple[int, int, str]] = Counter()
    for (user_key,) in truth.rows("SELECT DISTINCT user_key FROM shadow_events"):
        log = truth.log(user_key)
        for event in log:
            if event.ordinal is not None and event.text_digest is not None:
                counts[event.received_at_ms // HOUR_MS, event.ordinal, event.kind] += 1
            if event.undoes_seq is not None:
                undone = log[event.undoes_seq - 1]
                if undone.ordinal is not None and undone.text_digest is not None:
                    counts[undone.received_at_ms // HOUR_MS, undone.ordinal, undone.kind] -= 1
    stored = truth.rows("SELECT hour, ordinal, kind, sum(n) FROM item_activity GROUP BY 1, 2, 3")
    if {row[:3]: row[3] for row in stored if row[3]} != {k: n for k, n in counts.items() if n}:
        raise Violation(f"activity {sorted(stored)}, in truth {sorted(counts.items())}")


def check_catalog(world: World) -> None:
    """Items are what their log says; each change that was told is there; versions only rise."""
    truth = world.truth
    changes = truth.changes()
    live = {(item.item_id, ordinal) for ordinal, item in truth.catalog(len(changes)).items()}
    stored = set(truth.rows("SELECT item_id, ordinal FROM items WHERE NOT deleted"))
    if stored != live:
        raise Violation(f"items {sorted(stored ^ live)} are not as their log says")
    for change_seq, (item_id, version) in world.promises.changes.items():
        change = changes[change_seq - 1]
        if change.item_id != item_id:
            raise Violation(f"{item_id} was told {change_seq}: {change}")
        if version is not None and change.version != version:
            raise Violation(f"{item_id}, put as version {version}, overwrote: {change}")
    versions: dict[str, int] = {}
    ordinals: dict[int, str] = {}
    for change in changes:
        if ordinals.setdefault(change.ordinal, change.item_id) != change.item_id:
            raise Violation(f"ordinal {change.ordinal} was given twice")
        before = versions.get(change.item_id, -1)
        version = before if change.version is None else change.version
        if version < before:
            raise Violation(f"{change} is older than version {before}")
        versions[change.item_id] = version


def check_pointer(world: World) -> None:
    """Flips are numbered without a gap; no night published over a hold; one is live."""
    flips = world.truth.rows("SELECT flip, generation_id, previous, who, hold FROM live ORDER BY 1")
    if [row[0] for row in flips] != list(range(1, len(flips) + 1)):
        raise Violation(f"flips {flips}")
    for before, after in pairwise(flips):
        if before[4] and after[3] == NIGHT:
            raise Violation(f"a night published over a hold: {before}, {after}")
        if after[1] != before[1] and after[2] != before[1]:
            raise Violation(f"flip {after} forgot that {before[1]} was live before it")
    states = dict(world.truth.rows("SELECT generation_id, state FROM generations"))
    for _, generation_id, *_ in flips[-1:]:
        if states[generation_id] != "published":
            raise Violation(f"{generation_id} is live and {states[generation_id]}")


def check_files(world: World) -> None:
    """Every generation that was sealed has the very bytes that were sealed."""
    sealed = world.truth.rows(
        "SELECT generation_id, manifest_digest FROM generations "
        "WHERE state IN ('sealed', 'staged', 'published')"
    )
    for generation_id, manifest_digest in sealed:
        directory = world.root / "generations" / generation_id
        raw = (directory / MANIFEST_NAME).read_bytes()
        if hashlib.sha256(raw).hexdigest() != manifest_digest:
            raise Violation(f"the manifest of {generation_id} was rewritten")
        for name, entry in json.loads(raw)["files"].items():
            if hashlib.sha256((directory / name).read_bytes()).hexdigest() != entry["sha256"]:
                raise Violation(f"{generation_id}/{name} has other bytes than were sealed")
    registered = world.truth.rows("SELECT generation_id, path, sha256 FROM artifacts")
    for generation_id, path, sha256 in registered:
        if generation_id in dict(sealed):
            found = (world.root / "generations" / generation_id / path).read_bytes()
            if hashlib.sha256(found).hexdigest() != sha256:
                raise Violation(f"{generation_id}/{path} is not the artifact that was recorded")
