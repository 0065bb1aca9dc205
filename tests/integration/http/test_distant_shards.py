"""Shards in deployments of their own: the same lists over HTTP, marked ones while some are gone.

The deployments are stand-ins in this process, around the shipped code of both sides.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from ray_jobs.shards.distant import Reply, ShardQuery
from ray_jobs.shards.placement import shard_of
from serve.day import Day
from serve.gateway import build_api
from serve.settings import ServeSettings
from serve.shard_server import ShardsOfGeneration
from sql.settings import StoreSettings
from tests.integration.http.conftest import ITEMS, SHARDS, Stack
from tests.integration.http.test_fused import priors_of, weights, with_priors

AS_OF = "2026-11-24T00:00:00Z"
DEPLOYMENTS = 2


@pytest.fixture
def serve_settings() -> ServeSettings:
    """A shard that is there is waited for, however slow this machine is just now."""
    return ServeSettings(watch_interval_s=0.05, embed_timeout_s=5, shard_timeout_s=30)


@dataclass
class Deployment:
    """Holds what it is asked for, unless it is away or was told to forget a generation."""

    stack: Stack
    index: int
    is_there: bool = True
    forgotten: set[str] = field(default_factory=set)

    async def __call__(
        self, generation_id: str, queries: Mapping[int, ShardQuery]
    ) -> Mapping[int, Reply]:
        if not self.is_there:
            raise ConnectionError("it was killed")
        if generation_id in self.forgotten:
            return {}
        held = ShardsOfGeneration.open(
            self.index, DEPLOYMENTS, self.stack.root, generation_id, None
        )
        return held.shards.answer(queries)


@dataclass
class Distant:
    """A third replica, whose shards are elsewhere."""

    http: TestClient
    deployments: list[Deployment]

    def list_of(self, user: str, **params: Any) -> dict[str, Any]:
        asked = {"as_of": AS_OF, "k": ITEMS, **params}
        answer = self.http.get(f"/v1/users/{user}/recommendations", params=asked)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


@pytest.fixture
def distant(stack: Stack, serve_settings: ServeSettings) -> Iterator[Distant]:
    store = StoreSettings(database_url=str(stack.engine.url), artifact_root=stack.root)
    deployments = [Deployment(stack, index) for index in range(DEPLOYMENTS)]
    api = build_api(
        serve_settings, lambda: Day.start(store, serve_settings, stack.embed, deployments)
    )
    with TestClient(api, base_url="http://127.0.0.1", raise_server_exceptions=False) as http:
        stack.replicas.append(http)  # `wait_until_loaded` waits for it, too
        yield Distant(http, deployments)


def click(stack: Stack, user: str, item_id: str) -> None:
    body = {"user_id": user, "kind": "click", "item_id": item_id}
    assert stack.replicas[0].post("/v1/events", json=body).status_code == 200


def shard_numbers(stack: Stack, listed: list[dict[str, Any]]) -> set[int]:
    """Shards in which the listed items of the night's catalog are: i<n> has ordinal n."""
    ordinals = [int(item["item_id"][1:]) for item in listed if item["item_id"][1:].isdigit()]
    return set(shard_of(np.array(ordinals, np.int64), SHARDS).tolist())


def test_every_kind_of_list_is_the_one_of_a_replica_that_holds_its_shards(
    stack: Stack, distant: Distant
) -> None:
    click(stack, "u", "i3")
    assert stack.replicas[0].delete("/v1/items/i8").status_code == 200
    assert stack.replicas[0].put("/v1/items/new", json={"title": "space rook"}).status_code == 200
    pin = {"kind": "pin", "item_id": "i9", "position": 1}
    assert stack.replicas[0].put("/v1/policies/p", json=pin).status_code == 200
    search = {"text": "space pasta", "user_id": "u", "k": ITEMS}
    for method, path, sent in (
        ("GET", f"/v1/users/u/recommendations?k=50&as_of={AS_OF}", None),
        ("GET", f"/v1/users/u/recommendations?category=pasta&as_of={AS_OF}", None),
        ("GET", f"/v1/users/u/recommendations?explain=true&as_of={AS_OF}", None),
        ("GET", f"/v1/users/nobody/recommendations?as_of={AS_OF}", None),
        ("GET", f"/v1/users/u/recommendations?diversity=0.5&as_of={AS_OF}", None),
        ("GET", f"/v1/users/nobody/recommendations?diversity=0.5&as_of={AS_OF}", None),
        ("GET", "/v1/items/i4/similar?k=50", None),
        ("POST", "/v1/search", search),
    ):
        here, there = (
            http.request(method, path, json=sent).json()
            for http in (stack.replicas[0], distant.http)
        )
        assert here["items"] == there["items"], path
        assert (there["degraded"], there["shards"]) == ([], None), path
        assert here["items"], path


def test_with_a_deployment_gone_lists_are_marked_and_hold_the_items_of_the_rest(
    stack: Stack, distant: Distant
) -> None:
    click(stack, "u", "i3")
    assert stack.replicas[0].put("/v1/items/new", json={"title": "space rook"}).status_code == 200
    whole = distant.list_of("u")["items"]
    assert shard_numbers(stack, whole) == {0, 1}
    distant.deployments[1].is_there = False
    for _ in range(5):  # also while it is left alone
        marked = distant.list_of("u")
        assert marked["degraded"] == ["shard_gone"]
        assert marked["shards"] == {"answered": 1, "of": 2, "missing": [1]}
        rest = [i for i in whole if i["item_id"] == "new" or shard_numbers(stack, [i]) == {0}]
        assert marked["items"] == rest
    # What needs no shard is not marked.
    assert distant.list_of("nobody")["degraded"] == []
    distant.deployments[1].is_there = True
    healed = distant.list_of("u")
    while healed["degraded"]:  # it is left alone for a second
        healed = distant.list_of("u")
    assert (healed["items"], healed["shards"]) == (whole, None)


def test_a_deployment_without_the_generation_says_so_and_the_answer_is_of_one_generation(
    stack: Stack, distant: Distant
) -> None:
    click(stack, "u", "i3")
    stack.publish("g2", seed=2)
    distant.deployments[0].forgotten.add("g2")
    stack.wait_until_loaded("g2")
    stack.flip("g2")
    marked, whole = (
        distant.list_of("u"),
        stack.replicas[0].get(f"/v1/users/u/recommendations?k={ITEMS}&as_of={AS_OF}").json(),
    )
    assert (marked["generation"], marked["degraded"]) == ("g2", ["shard_gone"])
    assert marked["items"] == [i for i in whole["items"] if shard_numbers(stack, [i]) == {1}]


def test_a_list_of_many_sources_shows_only_items_whose_shard_answers(
    stack: Stack, distant: Distant
) -> None:
    click(stack, "u", "i0")  # i9 and i17 go with it: in shard 0, and in 1
    with_priors(stack, priors_of(weights(cosine=1.0, neighbours=0.5, recent=0.5)))
    whole = distant.list_of("u")
    here = stack.replicas[0].get(f"/v1/users/u/recommendations?k={ITEMS}&as_of={AS_OF}").json()
    assert whole["generation"] == "g2"
    ids = [[item["item_id"] for item in answer["items"]] for answer in (whole, here)]
    assert ids[0] == ids[1]
    scores = [[item["score"] for item in answer["items"]] for answer in (whole, here)]
    # Products of other processes are summed in another order.
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert shard_numbers(stack, whole["items"]) == {0, 1}
    distant.deployments[1].is_there = False
    marked = distant.list_of("u")
    assert marked["degraded"] == ["shard_gone"]
    assert shard_numbers(stack, marked["items"]) == {0}
    in_0 = [i["item_id"] for i in whole["items"] if shard_numbers(stack, [i]) == {0}]
    assert {item["item_id"] for item in marked["items"]} == set(in_0)
