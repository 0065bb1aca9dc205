"""Promises 1, 3 and 6 on a random day: two replicas, two users, a catalog that moves.

After each change the *other* replica is asked. Its answer must carry the change's sequence number,
show exactly what a plain model of the log and the catalog allows, and score it as the fold from
nothing does. The caches hold one session and sessions are written back at once, so that each way
to a session (cached, stored, from nothing) is walked.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ray_jobs.encoders.fold import FoldEvent, fold, user_vector
from ray_jobs.encoders.item_text import clean, compose
from serve.day import Day
from serve.settings import ServeSettings
from sql.engine import read_snapshot
from sql.events import find_user, read_tail
from tests.integration.http.conftest import ITEMS, WORDS, Stack, words_vector

USERS = ("ann", "bob")
STEPS = 140
KINDS = ("view", "click", "favourite", "purchase", "rating", "dislike", "hide", "search")
ACTIONS = (*KINDS, *KINDS, "undo", "undo", "undo", "put", "edit", "delete", "recreate", "retry")


@pytest.fixture
def serve_settings() -> ServeSettings:
    return ServeSettings(
        watch_interval_s=0.05, embed_timeout_s=5, session_cache=1, write_back_after=3
    )


@dataclass
class Said:
    """An event that counts, or no longer does."""

    event_id: str
    kind: str
    item: str | None
    body: dict[str, Any]
    text: str | None
    value: float | None
    counts: bool = True


@dataclass
class Model:
    """The log and the catalog, as plainly as they can be said."""

    items: dict[str, str]
    """Item id -> text, as its owner last put it."""
    logs: dict[str, list[Said]] = field(default_factory=lambda: {user: [] for user in USERS})
    seqs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(USERS, 0))
    catalog_seq: int = ITEMS

    def counting(self, user: str) -> list[Said]:
        return [said for said in self.logs[user] if said.counts]

    def allowed(self, user: str) -> set[str]:
        """By id: one that was deleted and put again is still what the user left."""
        return self.items.keys() - {said.item for said in self.counting(user)}


def item_text(title: str, number: int) -> str:
    return compose(title, "", WORDS[number % 4])


def the_catalog() -> dict[str, str]:
    titles = [f"{WORDS[n % 8]} {WORDS[(n * 3 + 1) % 8]} {n}" for n in range(ITEMS)]
    return {f"i{n}": item_text(title, n) for n, title in enumerate(titles)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_other_replica_answers_as_the_fold_of_the_whole_log(stack: Stack, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = Model(the_catalog())
    for step in range(STEPS):
        user = USERS[rng.integers(len(USERS))]
        act(stack, model, rng, step, user)
        check(stack, model, user, 1 - step % 2)
    for user in USERS:
        for replica in (0, 1):
            check(stack, model, user, replica)


def act(stack: Stack, model: Model, rng: np.random.Generator, step: int, user: str) -> None:
    """One change through the replica of this step; the model follows."""
    client = stack.replicas[step % 2]
    action = str(rng.choice(ACTIONS))
    item_id = str(rng.choice(sorted(model.items)))
    if action == "delete":
        answer = client.delete(f"/v1/items/{item_id}")
        assert answer.status_code == 200, answer.text
        model.catalog_seq = answer.json()["catalog_seq"]
        del model.items[item_id]
        stack.deleted.add(item_id)
        return
    if action in ("put", "edit", "recreate"):
        if action == "put":
            item_id = f"new{step}"
        elif action == "recreate" and stack.deleted:
            item_id = sorted(stack.deleted)[0]
        title = f"{rng.choice(WORDS)} {rng.choice(WORDS)} step{step}"
        answer = client.put(f"/v1/items/{item_id}", json={"title": title})
        assert answer.status_code == 200, answer.text
        model.catalog_seq = answer.json()["catalog_seq"]
        stack.deleted.discard(item_id)
        model.items[item_id] = compose(title, "", None)
        return
    said = event_of(model, rng, step, user, action, item_id)
    if said is None:
        return
    answer = client.post("/v1/events", json={"user_id": user, **said.body})
    assert answer.status_code == 200, answer.text
    stored = answer.json()["events"][0]
    if action == "retry":
        assert stored["duplicate"]
        return
    assert not stored["duplicate"]
    model.seqs[user] += 1
    assert stored["user_seq"] == model.seqs[user]
    if action == "undo":
        model.logs[user] = [s for s in model.logs[user] if s.event_id != said.body["undoes"]]
    else:
        if action == "rating":
            for earlier in model.logs[user]:
                if earlier.kind == "rating" and earlier.body["item_id"] == item_id:
                    earlier.counts = False
        model.logs[user].append(said)


def event_of(
    model: Model, rng: np.random.Generator, step: int, user: str, action: str, item_id: str
) -> Said | None:
    counting = model.counting(user)
    if action in ("undo", "retry"):
        if not counting:
            return None
        target = counting[rng.integers(len(counting))]
        if action == "retry":
            return target
        body = {"kind": "undo", "undoes": target.event_id, "event_id": f"e{step}"}
        return Said(f"e{step}", "undo", None, body, None, None)
    body = {"kind": action, "event_id": f"e{step}"}
    if action == "search":
        text = f"{rng.choice(WORDS)} {rng.choice(WORDS)}"
        return Said(f"e{step}", action, None, body | {"text": text}, clean(text), None)
    value = float(rng.integers(1, 6)) if action == "rating" else None
    body |= {"item_id": item_id} | ({} if value is None else {"value": value})
    return Said(f"e{step}", action, item_id, body, model.items[item_id], value)


def check(stack: Stack, model: Model, user: str, replica: int) -> None:
    client = stack.replicas[replica]
    if model.seqs[user] % 7 == 0:
        day_of(stack, replica).write_behind.flush()
    answer = client.get(f"/v1/users/{user}/recommendations", params={"k": 200}).json()
    assert (answer["user_seq"], answer["degraded"]) == (model.seqs[user], [])
    assert answer["catalog_seq"] == model.catalog_seq
    listed = [item["item_id"] for item in answer["items"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == model.allowed(user)
    ours = vector_of(stack, model, user, replica)
    theirs = day_of(stack, replica).states.read(user).vector
    if ours is None:
        assert theirs is None
        assert answer["basis"] == "popularity"
        return
    assert theirs is not None
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    texts = np.stack([words_vector(model.items[item_id]) for item_id in listed])
    encoder = generation_of(stack, replica).encoder
    nobody = np.full(len(listed), -1, np.int64)  # the weights of this test have no residuals
    expected = encoder.item_vectors(texts, nobody) @ ours
    scores = np.array([item["score"] for item in answer["items"]])
    np.testing.assert_allclose(scores, expected, atol=2e-3)  # the shards hold fp16
    assert (np.diff(scores) <= 0).all()
    filled = client.get(f"/v1/users/{user}/recommendations", params={"k": 5}).json()
    assert [item["item_id"] for item in filled["items"]] == listed[:5]


def vector_of(stack: Stack, model: Model, user: str, replica: int) -> NDArray[np.float32] | None:
    """The user vector by the fold of what counts, from nothing."""
    events = [
        FoldEvent(
            user_seq=number + 1,
            kind=said.kind,
            ordinal=None,
            vector=None if said.text is None else words_vector(said.text),
            value=said.value,
        )
        for number, said in enumerate(model.counting(user))
    ]
    encoder = generation_of(stack, replica).encoder
    return user_vector(encoder, fold(encoder, None, events)) if events else None


def generation_of(stack: Stack, replica: int) -> Any:
    return day_of(stack, replica).watch.loaded["g1"]


def day_of(stack: Stack, replica: int) -> Day:
    day: Day = stack.replicas[replica].app.state.day  # type: ignore[attr-defined]
    return day


def test_the_log_over_http_is_the_log_in_the_store(stack: Stack) -> None:
    client = stack.replicas[0]
    for number in range(25):
        body = {"user_id": "u", "kind": "view", "item_id": f"i{number}", "event_id": f"e{number}"}
        assert client.post("/v1/events", json=body).status_code == 200
    seqs: list[int] = []
    after: int | None = 0
    while after is not None:
        page = stack.replicas[1].get(f"/v1/users/u/events?after={after}&limit=10").json()
        seqs += [event["user_seq"] for event in page["events"]]
        after = page["next_after"]
    with read_snapshot(stack.engine) as conn:
        user = find_user(conn, "u")
        assert user is not None
        assert seqs == [event.user_seq for event in read_tail(conn, user.user_key, 0, 100)]
    assert seqs == list(range(1, 26))
